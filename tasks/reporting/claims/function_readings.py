"""Readings of claims about what the models compute: paths, CKA and accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean

from tasks.core.results import RunInfo
from tasks.reporting.claims.claim import Part, Reading
from tasks.reporting.claims.evidence import Evidence
from tasks.reporting.claims.measured import Measured, Missing, Noise, known
from tasks.reporting.claims.spread import order_groups, pooled
from tasks.reporting.views.floors import INITIALISATION, KINDS, ORDER
from tasks.reporting.views.paths import curve
from tasks.reporting.views.similarity import Similarity

LATE = 2 / 3
"""Share of the depth from which the paper's CKA falls (layer 25 of 36)."""

Pair = tuple[str, str]
PairValue = Callable[[Similarity, str, str], float | None]


def barrier(a: str, b: str, reading: str = "boxed", matched: bool = False) -> Reading:
    """The barrier on the path between the runs of two methods."""

    def read(evidence: Evidence) -> list[Part]:
        absent = [name for name in (a, b) if name not in evidence.main]
        if absent:
            return [Missing(f"no run of {' or '.join(absent)}")]
        return [_barrier(evidence, evidence.main[a], evidence.main[b], reading, matched)]

    return read


def seed_barriers(evidence: Evidence) -> list[Part]:
    """Barriers between runs of one method from two initialisations."""
    info = {run.run: run for run in evidence.view.runs}
    replicates = evidence.view.replicate_pairs[INITIALISATION]
    none = Missing("no method was trained from two LoRA initialisations (init_replicates does that)")
    return [_barrier(evidence, info[a], info[b], "boxed", False) for a, b in replicates] or [none]


def _barrier(evidence: Evidence, a: RunInfo, b: RunInfo, reading: str, matched: bool) -> Part:
    if why := evidence.empty(a.run, b.run):
        return Missing(why)
    found = evidence.paths.find(a.run, b.run, matched, reading)
    value = known(found.value) if found else None
    if found is None or value is None:
        return Missing(f"the path of {a.run} and {b.run} has no barrier ({reading}{', matched' if matched else ''})")
    replicates = [pair for pair in evidence.view.replicate_pairs[ORDER] if pair != (a.run, b.run)]
    floor = evidence.paths.floor(replicates, matched, reading)
    noise = Noise.of(floor, KINDS[ORDER]) if floor else None
    ends = curve(evidence.tables.connectivity, a.run, b.run, matched, reading)
    detail = f"losses {', '.join(f'{loss:.3f}' for _, loss in ends)} along the path" if ends else ""
    low, high = known(found.low), known(found.high)
    return Measured(f"{a.run} ~ {b.run}", value, low, high, noise, found.n or 0, "problems", detail)


def against_direction(a: str, b: str, sign: int) -> Reading:
    """How far the boxed loss goes back on its way from ``a`` to ``b``, as a share of the ends' distance.

    ``sign`` +1: it should rise. 0 for a monotone path, at least 1 for one that runs the other way. Interval: the band
    of the path's heights over its chord, once for either point; the ends' own error is not in the tables.
    """

    def read(evidence: Evidence) -> list[Part]:
        absent = [name for name in (a, b) if name not in evidence.main]
        if absent:
            return [Missing(f"no run of {' or '.join(absent)}")]
        one, other = evidence.main[a].run, evidence.main[b].run
        if why := evidence.empty(one, other):
            return [Missing(why)]
        losses = [loss for _, loss in curve(evidence.tables.connectivity, one, other, False, "boxed")]
        if len(losses) < 3 or losses[0] == losses[-1]:
            return [Missing(f"no path of {one} and {other} with ends of different loss")]
        unit = abs(losses[-1] - losses[0])
        back = drawdown([sign * loss for loss in losses]) / unit
        band = evidence.paths.find(one, other, False, "boxed")
        low = high = None
        if band and band.value is not None and band.low is not None and band.high is not None:
            half = 2 * max(band.value - band.low, band.high - band.value) / unit
            low, high = max(back - half, 0.0), back + half
        n = band.n if band and band.n else 0
        detail = f"losses {', '.join(f'{loss:.3f}' for loss in losses)}"
        return [Measured(f"{one} to {other}", back, low, high, None, n, "problems", detail)]

    return read


def drawdown(values: Sequence[float]) -> float:
    """The largest fall from any earlier value to a later one; 0 where none falls."""
    return max(max(values[: i + 1]) - value for i, value in enumerate(values))


def cka_lowest(a: str, b: str) -> Reading:
    """The lowest debiased CKA over the layers."""
    return _cka(_lowest, [(a, b)])


def _lowest(found: Similarity, a: str, b: str) -> float | None:
    place = found.lowest(a, b)
    return place.value if place else None


def cka_last(*names: Pair) -> Reading:
    """Debiased CKA at the last layer."""
    return _cka(lambda found, x, y: found.value(x, y, found.layers[-1]), names)


def cka_fall(*names: Pair) -> Reading:
    """Mean debiased CKA of the first two thirds of the layers less that of the rest."""
    return _cka(_fall, names)


def _fall(found: Similarity, a: str, b: str) -> float | None:
    places = found.profile(a, b)
    edge = LATE * found.layers[-1]
    early = [place.value for place in places if place.layer <= edge]
    late = [place.value for place in places if place.layer > edge]
    return fmean(early) - fmean(late) if early and late else None


def _swapped(value_of: PairValue, found: Similarity, other: str, run: str) -> float | None:
    return value_of(found, run, other)


def _cka(value_of: PairValue, names: Sequence[Pair]) -> Reading:
    def read(evidence: Evidence) -> list[Part]:
        found = evidence.similarity
        if found is None:
            return [Missing("CKA was not measured")]
        groups = order_groups(evidence.view)
        replicates = {run for group in groups for run in group}
        others = [info.run for info in evidence.view.runs if info.run not in replicates]
        spread = pooled(groups, [partial(_swapped, value_of, found, other) for other in others])
        parts: list[Part] = []
        for a, b in names:
            absent = [name for name in (a, b) if name not in evidence.main]
            if absent:
                parts.append(Missing(f"no run of {' or '.join(absent)}"))
                continue
            one, other = evidence.main[a].run, evidence.main[b].run
            value, why = value_of(found, one, other), evidence.empty(one, other)
            if value is None or why:
                parts.append(Missing(why or f"no CKA of {one} and {other}"))
                continue
            profile = ", ".join(f"{place.value:.3f}" for place in found.profile(one, other))
            detail = f"by layer: {profile}"
            low = high = None
            noise = None
            if spread is not None:
                low, high = value - spread.half_width, min(value + spread.half_width, 1.0)
                noise = spread.noise
            parts.append(Measured(f"{one} ~ {other}", value, low, high, noise, found.rows, "rows", detail))
        return parts

    return read
