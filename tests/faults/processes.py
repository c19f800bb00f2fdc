"""The living processes of one state folder, by what they are: as Linux's /proc shows them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    """``stage``: of a worker, what it computes, by the log that it writes to. ``age``: seconds since it began."""

    pid: int
    role: str
    stage: str
    age: float
    command: str


def living(home: Path) -> list[Process]:
    """Those that have ``home`` for their COLINEAR_HOME, but for this one."""
    found = [_look(folder, home) for folder in Path("/proc").glob("[0-9]*") if int(folder.name) != os.getpid()]
    return [process for process in found if process is not None]


def _look(folder: Path, home: Path) -> Process | None:
    try:
        state, *rest = (folder / "stat").read_text().rpartition(")")[2].split()
        if state == "Z" or f"COLINEAR_HOME={home}\0".encode() not in (folder / "environ").read_bytes():
            return None
        command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        output = Path(os.readlink(folder / "fd" / "1"))
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except OSError:  # it has ended, or is somebody else's
        return None
    stage = output.name.rpartition("-")[0] if output.parent == home / "logs" else ""
    return Process(int(folder.name), _role(command, stage), stage, uptime - int(rest[18]) / TICKS, command)


def _role(command: str, stage: str) -> str:
    """Workers are forked: they have their server's command line, and a log of their own."""
    marks = {
        "flows.cli": "driver",
        "create_app": "prefect",
        "orphans.py": "watcher",
        "resource_tracker": "tracker",
    }
    if "forkserver" in command:
        return "worker" if stage else "fork server"
    return next((role for mark, role in marks.items() if mark in command), "other")


def until(true: Callable[[], bool], seconds: float) -> float:
    """Seconds until it was true; at most ``seconds`` where it was not."""
    began = time.monotonic()
    while not true() and time.monotonic() - began < seconds:
        time.sleep(0.1)
    return min(time.monotonic() - began, seconds)
