"""What this machine's processors compute in, and how much of its memory is free. Read from the system; no torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

BFLOAT16 = {"avx512_bf16", "amx_bf16"}
"""Flags in /proc/cpuinfo of processors that multiply in bfloat16."""
UNLIMITED = 2**60
"""A limit of a control group that is none."""


@lru_cache(maxsize=1)
def has_bfloat16() -> bool:
    """Whether matrix products in bfloat16 are this processor's own and not emulated."""
    return bool(BFLOAT16 & flags(Path("/proc/cpuinfo")))


def flags(cpuinfo: Path) -> set[str]:
    """The first processor's flags; none where the file is not there (no Linux)."""
    with suppress(OSError), cpuinfo.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith(("flags", "Features")):
                return set(line.partition(":")[2].split())
    return set()


def free_memory(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> float:
    """Bytes that processes here may still take: what the system has, or less where a control group limits it.

    Pages of files that can be dropped count as free. 0 where nothing is known.
    """
    available = 0.0
    with suppress(OSError), (proc / "meminfo").open() as lines:
        found = dict(line.split(":", 1) for line in lines)
        available = 1024.0 * int(found["MemAvailable"].split()[0])
    if not available and hasattr(os, "sysconf"):
        available = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min([available, *(room for room in _rooms(proc, cgroups))])


def _rooms(proc: Path, cgroups: Path) -> Iterator[float]:
    for limit, folder in _limits(proc, cgroups):
        used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes") or 0.0
        yield max(0.0, limit - used + _droppable(folder / "memory.stat"))


def _limits(proc: Path, cgroups: Path) -> Iterator[tuple[float, Path]]:
    """(bytes, folder) of every control group above this process that has a limit, of either version."""
    for folder in _groups(proc, cgroups):
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
            limit = _number(folder / name)
            if limit is not None and limit < UNLIMITED:
                yield limit, folder


def _groups(proc: Path, cgroups: Path) -> Iterable[Path]:
    """The folders of this process's groups, their parents and the root (all that a container sees)."""
    found = {cgroups: None, cgroups / "memory": None}
    with suppress(OSError):
        for line in (proc / "self" / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "memory") or "memory" in controllers.split(","):
                root = cgroups / "memory" if controllers else cgroups
                place = root / path.lstrip("/")
                found |= dict.fromkeys(one for one in (place, *place.parents) if one.is_relative_to(root))
    return found


def _number(file: Path) -> float | None:
    with suppress(OSError, ValueError):
        return float(file.read_text())
    return None


def _droppable(stat: Path) -> float:
    """Bytes of file pages that nobody has used for a while: the kernel drops them before anything is killed."""
    with suppress(OSError, ValueError):
        found = dict(line.split() for line in stat.read_text().splitlines())
        return float(found.get("total_inactive_file", found.get("inactive_file", 0)))
    return 0.0


def ended_for_memory(proc: Path = Path("/proc")) -> int:
    """How many processes the kernel of this machine has killed since it booted because memory ran out; -1: unknown."""
    with suppress(OSError, ValueError):
        for line in (proc / "vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return -1
