"""What happens to what, told to whoever listens (the terminal; nothing by default). A leaf."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Event:
    """One thing that happened to one stage."""

    kind: Literal["start", "progress", "done", "hit", "failed", "again", "damaged", "doubt", "away", "back"]
    name: str
    done: int = 0
    total: int = 0
    note: str = ""
    seconds: float = 0.0


stopping = threading.Event()
"""Set while a study is being stopped (`tasks.workers.devices.stop`): what waits for a device or a server gives up."""

_listeners: list[Callable[[Event], None]] = []
_lock = threading.Lock()


def emit(event: Event) -> None:
    """Tell every listener; stages run in threads, so one at a time."""
    with _lock:
        for listener in _listeners:
            listener(event)


@contextmanager
def listening(listener: Callable[[Event], None]) -> Iterator[None]:
    """Listen for the length of a ``with`` block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


_at_work: ContextVar[tuple[str, list[str], list[int]] | None] = ContextVar("at_work", default=None)


@contextmanager
def at_work(name: str) -> Iterator[list[str]]:
    """The stage that this context works for. Yields what `damaged` tells within it, as ``name: what``."""
    found: list[str] = []
    token = _at_work.set((name, found, []))
    try:
        yield found
    finally:
        _at_work.reset(token)


def held(peak: int) -> None:
    """Say that a worker process of the stage at work has held so many bytes of memory at most."""
    if at := _at_work.get():
        at[2].append(peak)


def highest() -> int:
    """The most bytes of memory that a worker process of the stage at work has told (`held`); 0: none has."""
    at = _at_work.get()
    return max(at[2], default=0) if at else 0


def damaged(what: str, name: str = "") -> None:
    """Say that something kept on disk was damaged and is not used: of the stage ``name``, else of the one at work."""
    stage, found, _ = _at_work.get() or ("", None, None)
    name = name or stage
    if found is not None:
        if f"{name}: {what}" in found:  # several processes of one stage read one file
            return
        found.append(f"{name}: {what}")
    emit(Event("damaged", name, note=what))
