"""The addresses that a process listens on, as Linux's /proc shows them."""

from __future__ import annotations

import os
import socket
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

LISTENING = "0A"
UNCONNECTED = "07"
"""Of UDP: receives from anybody."""

TABLES = {"tcp": LISTENING, "tcp6": LISTENING, "udp": UNCONNECTED, "udp6": UNCONNECTED}


def listening(pid: int) -> set[tuple[str, int]]:
    """(address, port) of every TCP socket of a process that listens, and every UDP socket that is bound to a port."""
    inodes = set()
    try:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            target = os.readlink(link)
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    except OSError:  # it has ended, or one of its files has
        pass
    return {place for inode, place in _table(pid).items() if inode in inodes}


def _table(pid: int) -> dict[str, tuple[str, int]]:
    found = {}
    for name, state in TABLES.items():
        try:
            lines = Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            _, local, _, status, *rest = line.split()
            address, port = local.split(":")
            if status == state and int(port, 16):
                found[rest[5]] = (_spell(address), int(port, 16))
    return found


def _spell(address: str) -> str:
    """The kernel writes 32-bit words of the machine's byte order."""
    words = [int(address[i : i + 8], 16) for i in range(0, len(address), 8)]
    content = b"".join(socket.ntohl(word).to_bytes(4, "big") for word in words)
    return str(IPv4Address(content) if len(content) == 4 else IPv6Address(content))


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach it."""
    parsed = IPv6Address(address) if ":" in address else IPv4Address(address)
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return (mapped or parsed).is_loopback
