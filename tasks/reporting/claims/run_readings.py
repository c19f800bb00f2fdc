"""Readings of claims about single updates and their layers: effective rank, logit-lens depth, orthogonal fraction."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from statistics import fmean

import numpy as np

from tasks.core.chance import student
from tasks.reporting.claims.claim import Part, Reading
from tasks.reporting.claims.evidence import Evidence
from tasks.reporting.claims.measured import Measured, Missing, known
from tasks.reporting.claims.pair_readings import by_layer
from tasks.reporting.claims.spread import Pooled, order_groups, pooled
from tasks.reporting.tables.functions import depths
from tasks.reporting.views.across import t_interval
from tasks.reporting.views.join import spectrum_value

RANK = "effective_rank"
FEWEST = 2
"""Layers in a third of the network that a variance takes."""


def rank_above(uppers: Sequence[str], lowers: Sequence[str]) -> Reading:
    """Effective rank of each of ``uppers`` less each of ``lowers``, relative to SFT's."""

    def read(evidence: Evidence) -> list[Part]:
        found, reference = _ranks(evidence), _ranks(evidence).get("sft")
        absent = [name for name in dict.fromkeys(("sft", *uppers, *lowers)) if name not in found]
        if absent or not reference:
            return [Missing(f"no effective rank of {', '.join(absent) or 'sft'}")]
        spread = _rank_spread(evidence)
        return [
            _difference(
                f"{a} less {b}", (found[a] - found[b]) / reference, spread, reference, evidence.view.modules,
                "modules", f"{found[a]:.2f} and {found[b]:.2f}",
            )
            for a, b in product(uppers, lowers)
        ]  # fmt: skip

    return read


def rank_range(*methods: str) -> Reading:
    """Largest less smallest effective rank of the methods, relative to SFT's."""

    def read(evidence: Evidence) -> list[Part]:
        found = _ranks(evidence)
        absent = [name for name in methods if name not in found]
        if absent or not found.get("sft"):
            return [Missing(f"no effective rank of {', '.join(absent) or 'sft'}")]
        values = {name: found[name] for name in methods}
        return [_range(values, _rank_spread(evidence), found["sft"], evidence.view.modules, "modules")]

    return read


def depth_range(*methods: str) -> Reading:
    """Largest less smallest logit-lens depth of the methods, relative to the number of layers."""

    def read(evidence: Evidence) -> list[Part]:
        deep = {run: value for run, value in depths(evidence.tables.lens).items() if known(value) is not None}
        found = {
            name: deep[info.run]
            for name, info in evidence.main.items()
            if info.run in deep and info.run not in evidence.view.zero
        }
        absent = [name for name in methods if name not in found]
        layers = max(evidence.tables.lens["layer"].drop_nulls(), default=0)
        if absent or not layers:
            return [Missing(f"no logit-lens depth of {', '.join(absent) or 'any layer'}")]
        spread = pooled(order_groups(evidence.view), [deep.get])
        tokens = max(evidence.tables.lens["tokens"])
        return [_range({name: found[name] for name in methods}, spread, float(layers), tokens, "tokens")]

    return read


def later_third(run: str, reference: str) -> Reading:
    """Orthogonal fraction of ``run`` against ``reference``: mean of the last third of the layers less the middle's.

    Interval: Student's t over the data orders in which both were trained, where there are several; else Welch's over
    the layers, which takes two layers in each third.
    """

    def read(evidence: Evidence) -> list[Part]:
        if run not in evidence.main or reference not in evidence.main:
            return [Missing(f"no run of {run} or {reference}")]
        one, other = evidence.main[run], evidence.main[reference]
        thirds = {
            f"order {a.data_seed}": found
            for a, b in product(evidence.view.replicates(one), evidence.view.replicates(other))
            if a.data_seed == b.data_seed and (found := _thirds(evidence, a.run, b.run)) is not None
        }
        first = _thirds(evidence, one.run, other.run)
        if first is None:
            return [Missing("no orthogonal fraction by layer, or fewer than three layers")]
        units = {order: float(np.mean(last) - np.mean(middle)) for order, (middle, last) in thirds.items()}
        middle, last = first
        value, (low, high) = float(np.mean(last) - np.mean(middle)), welch(last, middle)
        n, over = len(by_layer(evidence, "orthogonal_fraction", one.run, other.run)), "layers"
        detail = f"last third {np.mean(last):.3f}, middle {np.mean(middle):.3f}"
        if len(units) > 1:
            value, n, over = fmean(units.values()), len(units), "data orders"
            low, high = t_interval(list(units.values())) or (None, None)
        elif low is None:
            detail += f"; an interval takes {FEWEST} layers in each third, or several data orders"
        return [Measured(f"{one.run} against {other.run}", value, low, high, None, n, over, detail)]

    return read


def _thirds(evidence: Evidence, run: str, reference: str) -> tuple[list[float], list[float]] | None:
    """The middle and the last third of the layers; None below three layers."""
    values = list(by_layer(evidence, "orthogonal_fraction", run, reference).values())
    third = len(values) // 3
    return (values[third:-third], values[-third:]) if third else None


def welch(a: Sequence[float], b: Sequence[float]) -> tuple[float | None, float | None]:
    """95 % interval of ``mean(a) - mean(b)`` with unequal variances (Welch 1947); None where a sample has one value."""
    if min(len(a), len(b)) < FEWEST:
        return None, None
    difference = float(np.mean(a) - np.mean(b))
    parts = [float(np.var(x, ddof=1)) / len(x) for x in (a, b)]
    error = sum(parts) ** 0.5
    if error == 0:
        return difference, difference
    df = sum(parts) ** 2 / sum(part**2 / (len(x) - 1) for part, x in zip(parts, (a, b), strict=True))
    half = float(student(df)) * error
    return difference - half, difference + half


def _ranks(evidence: Evidence) -> dict[str, float]:
    """Method -> effective rank of its run."""
    found = {name: known(_rank(evidence, info.run)) for name, info in evidence.main.items()}
    return {name: value for name, value in found.items() if value is not None}


def _rank(evidence: Evidence, run: str) -> float | None:
    return known(spectrum_value(evidence.tables.spectra, run, RANK))


def _rank_spread(evidence: Evidence) -> Pooled | None:
    return pooled(order_groups(evidence.view), [lambda run: _rank(evidence, run)])


def _range(values: dict[str, float], spread: Pooled | None, unit: float, n: int, of: str) -> Measured:
    least, most = min(values, key=lambda name: values[name]), max(values, key=lambda name: values[name])
    width = (values[most] - values[least]) / unit
    detail = f"{values[most]:.3f} and {values[least]:.3f}"
    found = _difference(f"{most} less {least}", width, spread, unit, n, of, detail)
    low = None if found.low is None else max(found.low, 0.0)
    return Measured(found.what, width, low, found.high, found.noise, n, of, found.detail)


def _difference(what: str, value: float, spread: Pooled | None, unit: float, n: int, of: str, detail: str) -> Measured:
    """``value`` in ``unit``s, with the interval that the order of the data gives it."""
    if spread is None:
        return Measured(what, value, None, None, None, n, of, f"{detail}; no run in another data order, so no interval")
    scaled = Pooled(spread.rms / unit, spread.df, spread.largest / unit)
    half = scaled.half_width
    return Measured(what, value, value - half, value + half, scaled.noise, n, of, detail)
