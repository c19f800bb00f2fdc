"""Bounds for a piece of somebody else's program, such as a chat template: seconds and memory, within this process."""

from __future__ import annotations

import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class OverLimit(Exception):
    """It took too long."""


@contextmanager
def limited(seconds: float, memory: int) -> Iterator[None]:
    """Within it, `OverLimit` after ``seconds``, and MemoryError beyond ``memory`` more bytes of address space.

    Only Python code is interrupted, and only in a process's main thread, where alone it can be; elsewhere there is no
    limit of time.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = _address_space() + memory
    if soft == resource.RLIM_INFINITY or wanted < soft:
        resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
    try:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGALRM, _over)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _address_space() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:  # no Linux: no limit that would be right
        return 2**62


def _over(*_: Any) -> None:
    raise OverLimit
