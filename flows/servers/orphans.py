"""Ends the servers that a command started when the command is gone: after ``kill -9`` it cannot do so itself.

The command starts this file as a process of its own session, the watcher, which imports the standard library only. They
share a pipe whose one writing end is the command's: the kernel closes it however the command ends. The watcher
then ends what it was told of and still lives, and itself.

Why not the alternatives: ``prctl(PR_SET_PDEATHSIG)`` is Linux's alone, is sent when the *thread* that started the child
ends, and reaches the child but not what that started; a thread in the server that reads such a pipe does nothing where
the server hangs. Worker processes need no watcher: they read a pipe of their driver themselves
(`tasks.workers.worker`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

GRACE_SECONDS = 5.0
"""Between SIGTERM, on which a server writes down what it has, and SIGKILL."""

POLL_SECONDS = 0.1


def prepare() -> None:
    """Start the watcher: before the first server, so that none is without it."""
    _watcher()


def watch(pid: int, *, group: bool = False) -> None:
    """End this process, or its whole process group, when the calling process is gone."""
    _tell(f"watch {pid} {'group' if group else 'alone'}")


def forget(pid: int) -> None:
    """It was ended already."""
    _tell(f"forget {pid}")


def _tell(line: str) -> None:
    watcher = _watcher()
    assert watcher.stdin is not None
    with suppress(BrokenPipeError):  # somebody ended the watcher: nothing that a study should fail for
        watcher.stdin.write(f"{line}\n".encode())


@lru_cache(maxsize=1)
def _watcher() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(Path(__file__).absolute())],
        bufsize=0,
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,  # who reads the command's output is not to wait for us
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # neither Ctrl-C nor a kill of the command's group is for us
    )


def _main() -> None:
    """The watcher."""
    watched: dict[int, tuple[bool, str]] = {}
    for line in sys.stdin:
        word, pid, *how = line.split()
        if word == "watch":
            watched[int(pid)] = (how == ["group"], _born(int(pid)))
        else:
            watched.pop(int(pid), None)
    for number in (signal.SIGTERM, signal.SIGKILL):
        watched = {pid: about for pid, about in watched.items() if _signal(pid, *about, number)}
        deadline = time.monotonic() + GRACE_SECONDS
        while watched and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            watched = {pid: about for pid, about in watched.items() if _signal(pid, *about, 0)}


def _signal(pid: int, group: bool, born: str, number: int) -> bool:
    """Send it; whether there was anybody to send it to. A number that is another process's by now gets none."""
    if _born(pid) not in (born, ""):
        return False
    try:
        (os.killpg if group else os.kill)(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _born(pid: int) -> str:
    """When a process began, in the kernel's clock ticks; empty where it has ended, or nothing says so (no /proc)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


if __name__ == "__main__":
    _main()
