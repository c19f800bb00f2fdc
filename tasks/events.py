"""What happens to what, told to whoever listens (the terminal; nothing by default). A leaf."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Event:
    """One thing that happened to one stage."""

    kind: Literal["start", "progress", "done", "hit", "failed"]
    name: str
    done: int = 0
    total: int = 0
    note: str = ""
    seconds: float = 0.0


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
