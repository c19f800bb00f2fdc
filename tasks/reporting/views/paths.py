"""Views of the straight paths between updates: their barriers, and the curves that those are read off."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import polars as pl

from tasks.reporting.estimates import Estimate, Spread
from tasks.reporting.metrics import PATH
from tasks.reporting.views.floors import floor_of
from tasks.reporting.views.pairs import Geometry

Names = tuple[str, str]


READINGS = {metric.name: metric for metric in PATH}
"""Metrics along a path, by their name in CONNECTIVITY, in the order in which they are shown. The barrier of accuracy is
that of the error."""


MISSED_BELOW = 0.025
"""Chance that a 95 % interval lies above what it is to cover."""


@dataclass(frozen=True)
class Barrier(Estimate):
    """Height above the chord in the frame's units, its interval over ``n`` problems; ``alpha``: where it is."""

    alpha: float | None = None


@dataclass(frozen=True)
class Extreme:
    """The largest barrier of one reading over all pairs that are no noise floor, and the noise floors' largest."""

    run: str
    other: str
    matched: bool
    barrier: Barrier
    floor: Spread | None
    """Over the replicates, with the same scaling of the updates."""
    paths: int
    shown: int
    """Paths whose barrier's interval lies above 0, of ``paths`` with a value."""

    @property
    def by_chance(self) -> float:
        """How many of ``paths`` would show one if none had any: at most that, where intervals hold what they say."""
        return MISSED_BELOW * self.paths


@dataclass(frozen=True)
class Paths:
    """Barriers, ready to look up. Build it with `paths_of`."""

    readings: tuple[str, ...]
    barriers: Mapping[tuple[str, str, bool, str], Barrier]

    def find(self, run: str, other: str, matched: bool, reading: str) -> Barrier | None:
        """The barrier between two runs with ``run`` at alpha 0, whichever way round the frame has the pair."""
        if (run, other, matched, reading) in self.barriers:
            return self.barriers[run, other, matched, reading]
        found = self.barriers.get((other, run, matched, reading))
        if found is None or found.alpha is None:
            return found
        return replace(found, alpha=1 - found.alpha)

    def pairs(self) -> list[Names]:
        """The pairs that the frame has, in its order."""
        return list(dict.fromkeys((a, b) for a, b, _, _ in self.barriers))

    def floor(self, replicates: Iterable[Names], matched: bool, reading: str) -> Spread | None:
        """The barriers of pairs of one method."""
        found = [self.find(a, b, matched, reading) for a, b in replicates]
        return floor_of(barrier.value for barrier in found if barrier is not None)


def paths_of(barriers: pl.DataFrame) -> Paths:
    """``barriers`` (BARRIERS), ready to look up."""
    columns = ["run_a", "run_b", "matched", "reading", "barrier", "low", "high", "n", "alpha"]
    found = {(a, b, matched, reading): Barrier(*rest) for a, b, matched, reading, *rest in barriers[columns].rows()}
    present = {reading for _, _, _, reading in found}
    return Paths(tuple(name for name in READINGS if name in present), found)


def largest(paths: Paths, view: Geometry, reading: str) -> Extreme | None:
    """The largest barrier of one reading; None where none has a value."""
    replicates = [pair for kind in view.replicate_pairs.values() for pair in kind]
    own = {frozenset(pair) for pair in replicates}
    rows = [
        (barrier.value, key, barrier)
        for key, barrier in paths.barriers.items()
        if key[3] == reading and barrier.value is not None and frozenset(key[:2]) not in own
    ]
    if not rows:
        return None
    _, (run, other, matched, _), barrier = max(rows, key=lambda row: row[0])
    floor = paths.floor(replicates, matched, reading)
    return Extreme(run, other, matched, barrier, floor, len(rows), sum(row[2].above_zero for row in rows))


def base_readings(connectivity: pl.DataFrame, base: str) -> dict[str, float]:
    """Reading -> value of the base itself, from which every path's two updates start; empty where not measured."""
    own = connectivity.filter(pl.col("run_a") == base, pl.col("run_b") == base, pl.col("value").is_not_null())
    return dict(own.select("reading", "value").iter_rows())


def near_and_other(view: Geometry, measured: Iterable[Names]) -> tuple[list[Names], list[Names]]:
    """The pairs with the reference and the noise floors (also unmeasured ones), and the other ``measured`` pairs.

    The reference is second in its pairs. Replicates come first.
    """
    replicates = [pair for kind in view.replicate_pairs.values() for pair in kind]
    reference = view.reference.run if view.reference else None
    near = [*replicates, *((info.run, reference) for info in view.runs if reference and info.run != reference)]
    near = [(b, a) if a == reference else (a, b) for a, b in near]
    known = {frozenset(pair) for pair in near}
    near = [pair for i, pair in enumerate(near) if frozenset(pair) not in {frozenset(p) for p in near[:i]}]
    return near, [pair for pair in measured if frozenset(pair) not in known]


def curve(connectivity: pl.DataFrame, run: str, other: str, matched: bool, reading: str) -> list[tuple[float, float]]:
    """(alpha, value) along the path from ``run`` (alpha 0) to ``other`` (alpha 1); empty where it was not measured."""
    for a, b, turned in ((run, other, False), (other, run, True)):
        rows = connectivity.filter(
            pl.col("run_a") == a,
            pl.col("run_b") == b,
            pl.col("matched") == matched,
            pl.col("reading") == reading,
            pl.col("value").is_finite(),
        )
        if rows.height:
            points = rows.select(1 - pl.col("alpha") if turned else pl.col("alpha"), pl.col("value"))
            return sorted(points.rows())
    return []


def midpoint(connectivity: pl.DataFrame, run: str, other: str) -> float | None:
    """The solutions' cross-entropy half-way less the mean of its ends, nats a token; None where not all were read."""
    values = dict(curve(connectivity, run, other, False, "solution"))
    if not {0.0, 0.5, 1.0} <= values.keys():
        return None
    return values[0.5] - (values[0.0] + values[1.0]) / 2
