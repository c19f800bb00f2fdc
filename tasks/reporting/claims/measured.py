"""A measured number with what it takes to judge it: an interval, the noise floor of its kind, and over what n."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from tasks.reporting.estimates import Estimate, Spread
from tasks.reporting.formats import NOT_MEASURED

__all__ = ["NOT_MEASURED", "Measured", "Missing", "Noise", "known"]


@dataclass(frozen=True)
class Noise:
    """What noise alone gives: the range over ``n`` pairs of runs of one method. ``kind`` says of what."""

    kind: str
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, found: Spread, kind: str) -> Noise:
        return cls(kind, found.lowest, found.highest, found.n)


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
    crossed: Estimate | None = None
    """The same of runs in two data orders, mean over ``n`` pairs of them: what the noise floor judges
    (`tasks.reporting.views.across`)."""
    units: Mapping[str, float] = field(default_factory=dict)
    """What the interval is over: the value in each data order where both methods have several, else in each layer."""
    null: float | None = None
    """What chance alone gives."""
    beats_chance: bool | None = None
    """Of a measure of likeness: whether 97.5 % of random subspaces are less alike; None: it has no null."""


@dataclass(frozen=True)
class Missing:
    """Why a number is not there."""

    why: str


def known(value: float | None) -> float | None:
    """``value``, or None for one that is not a finite number."""
    return None if value is None or not math.isfinite(value) else value
