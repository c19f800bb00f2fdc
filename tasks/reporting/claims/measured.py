"""A measured number with what it takes to judge it: an interval, the noise floor of its kind, and over what n."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tasks.core.chance import student
from tasks.reporting.estimates import Estimate, Spread
from tasks.reporting.formats import NOT_MEASURED
from tasks.reporting.views.pairs import Geometry

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


KIND = "change with another data order"


@dataclass(frozen=True)
class Pooled:
    """The spread of runs, pooled over groups of replicates.

    ``rms``: root mean square difference of two runs of one method, ``sqrt(2) s``; ``largest``: of all pairs.
    """

    rms: float
    df: int
    largest: float

    @property
    def half_width(self) -> float:
        """Half the 95 % interval of a difference of two runs."""
        return float(student(self.df)) * self.rms

    @property
    def noise(self) -> Noise:
        return Noise(KIND, 0.0, self.largest, self.df)


def order_groups(view: Geometry) -> list[tuple[str, ...]]:
    """Runs that differ in the order of their data only, group by group."""
    groups = dict.fromkeys(tuple(info.run for info in view.replicates(run)) for run in view.runs)
    return [group for group in groups if len(group) > 1]


def pooled(groups: Sequence[Sequence[str]], measures: Iterable[Callable[[str], float | None]]) -> Pooled | None:
    """The spread of ``measures`` (run -> value) within ``groups``: squares averaged over the measures, which share
    their runs and so add no degrees of freedom. None where no measure is known for every run."""
    squares, largest = [], 0.0
    df = sum(len(group) - 1 for group in groups)
    for measure in measures:
        values = [[measure(run) for run in group] for group in groups]
        complete = [[value for value in group if value is not None] for group in values]
        if any(len(own) < len(group) for own, group in zip(complete, groups, strict=True)):
            continue
        means = [sum(own) / len(own) for own in complete]
        squares.append(sum((x - m) ** 2 for own, m in zip(complete, means, strict=True) for x in own))
        largest = max([largest, *(max(own) - min(own) for own in complete)])
    if not df or not squares:
        return None
    return Pooled((2 * sum(squares) / len(squares) / df) ** 0.5, df, largest)
