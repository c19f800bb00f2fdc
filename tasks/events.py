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
"""Set while a study is being stopped (`tasks.devices.stop`): what waits for a device or a server gives up."""

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


@dataclass
class AtWork:
    """What was told of a stage while it was at work."""

    name: str
    damage: list[str]
    """What was found damaged, as ``name: what``."""
    peak: int = 0
    """The most bytes of memory that one of its worker processes has held; 0 where it had none."""


_at_work: ContextVar[AtWork | None] = ContextVar("at_work", default=None)


@contextmanager
def at_work(name: str) -> Iterator[AtWork]:
    """The stage that this context works for. Yields what `damaged` and `held` tell within it."""
    found = AtWork(name, [])
    token = _at_work.set(found)
    try:
        yield found
    finally:
        _at_work.reset(token)


def held(peak: int) -> None:
    """Say how much memory a worker process of the stage at work has held at most, in bytes."""
    at = _at_work.get()
    if at is not None:
        at.peak = max(at.peak, peak)


def damaged(what: str, name: str = "") -> None:
    """Say that something kept on disk was damaged and is not used: of the stage ``name``, else of the one at work."""
    at = _at_work.get()
    name = name or (at.name if at else "")
    if at is not None:
        if f"{name}: {what}" in at.damage:  # several processes of one stage read one file
            return
        at.damage.append(f"{name}: {what}")
    emit(Event("damaged", name, note=what))
