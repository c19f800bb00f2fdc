"""A measured number with what it takes to judge it: an interval, the noise floor of its kind, and over what n."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tasks.reporting.formats import NOT_MEASURED

__all__ = ["NOT_MEASURED", "Measured", "Missing", "Noise", "known"]


@dataclass(frozen=True)
class Noise:
    """What noise alone gives: the range over ``n`` pairs of runs of one method. ``kind`` says of what."""

    kind: str
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Measured:
    """``what`` was measured (the pair or the runs), in the frame's units; ``low``, ``high``: its 95 % interval; ``n``
    ``of`` something. ``p``: exact, of McNemar's test, where one decides; ``parts``: how many parts its claim
    has."""

    what: str
    value: float
    low: float | None
    high: float | None
    noise: Noise | None
    n: int
    of: str
    detail: str = ""
    p: float | None = None
    parts: int = 1


@dataclass(frozen=True)
class Missing:
    """Why a number is not there."""

    why: str


def known(value: float | None) -> float | None:
    """``value``, or None for one that is not a finite number."""
    return None if value is None or not math.isfinite(value) else value
