"""The time of day, for durations and the order of things: it does not jump when somebody sets the machine's clock."""

from __future__ import annotations

import time

_OFFSET = time.time() - time.monotonic()


def now() -> float:
    """Unix time as it was when this process began, plus the seconds since then. Two calls never run backwards."""
    return _OFFSET + time.monotonic()
