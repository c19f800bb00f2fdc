"""Readings of claims about accuracy, about what the models compute, and about single updates and their layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from statistics import fmean

import numpy as np

from tasks.core.chance import student
from tasks.core.results import RunInfo
from tasks.reporting.claims.claim import Part, Reading, among, between
from tasks.reporting.claims.measured import KIND, Measured, Missing, Noise, Pooled, known, order_groups, pooled
from tasks.reporting.claims.pair_readings import NO_MATCHED, NO_SEEDS, Names, matched, replicates
from tasks.reporting.formats import benchmark_name, number, p_value
from tasks.reporting.notes import freedom
from tasks.reporting.tables.functions import depths
from tasks.reporting.views.accuracy import Versus
from tasks.reporting.views.across import t_interval
from tasks.reporting.views.floors import KINDS, ORDER
from tasks.reporting.views.paths import curve
from tasks.reporting.views.similarity import Similarity
from tasks.reporting.views.study import Study

PAPERS = "gsm8k"
HARD = ("aime2026", "aime")


def accuracy(*pairs: Names) -> Reading:
    """Accuracy of the first method less that of the second; "base" may be one. On GSM8K where it is, else on the
    study's first benchmark."""
    return between(_difference, *pairs)


def accuracy_hard(*pairs: Names) -> Reading:
    """The same on the paper's hard benchmark."""
    return between(partial(_difference, hard=True), *pairs)


def _difference(study: Study, a: RunInfo, b: RunInfo, hard: bool = False) -> Part:
    run, other, there = a.run, b.run, study.benchmarks
    benchmark = next((name for name in (HARD if hard else (PAPERS, study.primary)) if name in there), None)
    if benchmark is None and hard:
        return Missing("AIME 2026 was not evaluated (evaluation.benchmarks does that)")
    benchmark = benchmark or study.primary
    if study.nobody_solves:
        return Missing("no model solves these problems, so accuracy cannot tell any two apart")
    if study.unended(benchmark):
        return Missing(f"not judged: the base's answers to {benchmark_name(benchmark)} problems do not end")
    if why := study.geometry.nothing(run, other):
        return Missing(why)
    found = study.versus(run, other, benchmark)
    if found is None:
        return Missing(f"{run} and {other} were not compared on {benchmark_name(benchmark)}")
    scores = [study.score(name, benchmark) for name in (run, other)]
    if all(one is not None and one.correct == one.n for one in scores):
        return Missing(
            f"{run} and {other} solve all of {benchmark_name(benchmark)}, so accuracy cannot tell them apart"
        )
    low, high = (found.low, found.high) if found.repeatable is None else (found.method_low, found.method_high)
    detail, noise = f"{benchmark_name(benchmark)}, {_told(found)}", _noise(study, benchmark)
    return Measured(
        f"{run} less {other}", found.difference, low, high, noise, found.n, "problems", detail, found.p_value
    )


matched_accuracy = among(matched, lambda study, dpo, _: _difference(study, dpo, study.base), NO_MATCHED)
"""DPO at SFT's learning rate against the base."""


def _told(found: Versus) -> str:
    """The test, and what the interval is about."""
    least = "none" if found.detectable is None else number(100 * found.detectable, 1)
    test = f"exact p = {p_value(found.p_value)}{' and not 0' if found.rejects else ''}, detectable {least}"
    if found.repeatable is None:
        return f"{test}, interval of these two models: no training was repeated"
    again = "; these two models differ, a repeat of the training might not"
    return (
        f"{test}, interval with the spread of repeated trainings ({freedom(found)})"
        f"{again if found.rejects and not found.repeatable else ''}"
    )


def _noise(study: Study, benchmark: str) -> Noise | None:
    """Accuracies of one method in two data orders: how far they lie apart."""
    found = [study.versus(a, b, benchmark) for a, b in study.geometry.replicate_pairs[ORDER]]
    apart = [abs(one.difference) for one in found if one is not None]
    df = sum(len(group) - 1 for group in order_groups(study.geometry))
    return Noise(KIND, 0.0, max(apart), df) if apart else None


LATE = 2 / 3
"""Share of the depth from which the paper's CKA falls (layer 25 of 36)."""

PairValue = Callable[[Similarity, str, str], float | None]


def barrier(a: str, b: str, reading: str = "boxed", matched: bool = False) -> Reading:
    """The barrier on the path between the runs of two methods."""
    return between(partial(_barrier, reading=reading, matched=matched), (a, b))


def _barrier(study: Study, a: RunInfo, b: RunInfo, reading: str = "boxed", matched: bool = False) -> Part:
    if why := study.geometry.nothing(a.run, b.run):
        return Missing(why)
    found = study.paths.find(a.run, b.run, matched, reading)
    value = known(found.value) if found else None
    if found is None or value is None:
        return Missing(f"the path of {a.run} and {b.run} has no barrier ({reading}{', matched' if matched else ''})")
    replicates = [pair for pair in study.geometry.replicate_pairs[ORDER] if pair != (a.run, b.run)]
    floor = study.paths.floor(replicates, matched, reading)
    noise = Noise.of(floor, KINDS[ORDER]) if floor else None
    ends = curve(study.connectivity, a.run, b.run, matched, reading)
    detail = f"losses {', '.join(f'{loss:.3f}' for _, loss in ends)} along the path" if ends else ""
    low, high = known(found.low), known(found.high)
    return Measured(f"{a.run} ~ {b.run}", value, low, high, noise, found.n or 0, "problems", detail)


seed_barriers = among(replicates, _barrier, NO_SEEDS)
"""Barriers between runs of one method from two initialisations."""


def against_direction(a: str, b: str, sign: int) -> Reading:
    """How far the boxed loss goes back on its way from ``a`` to ``b``, as a share of the ends' distance.

    ``sign`` +1: it should rise. 0 for a monotone path, at least 1 for one that runs the other way. Interval: the band
    of the path's heights over its chord, once for either point; the ends' own error is not in the tables.
    """
    return between(partial(_back, sign=sign), (a, b))


def _back(study: Study, a: RunInfo, b: RunInfo, sign: int) -> Part:
    one, other = a.run, b.run
    if why := study.geometry.nothing(one, other):
        return Missing(why)
    losses = [loss for _, loss in curve(study.connectivity, one, other, False, "boxed")]
    if len(losses) < 3 or losses[0] == losses[-1]:
        return Missing(f"no path of {one} and {other} with ends of different loss")
    unit = abs(losses[-1] - losses[0])
    back = drawdown([sign * loss for loss in losses]) / unit
    band = study.paths.find(one, other, False, "boxed")
    low = high = None
    if band and band.value is not None and band.low is not None and band.high is not None:
        half = 2 * max(band.value - band.low, band.high - band.value) / unit
        low, high = max(back - half, 0.0), back + half
    n = band.n if band and band.n else 0
    detail = f"losses {', '.join(f'{loss:.3f}' for loss in losses)}"
    return Measured(f"{one} to {other}", back, low, high, None, n, "problems", detail)


def drawdown(values: Sequence[float]) -> float:
    """The largest fall from any earlier value to a later one; 0 where none falls."""
    return max(max(values[: i + 1]) - value for i, value in enumerate(values))


def cka_lowest(a: str, b: str) -> Reading:
    """The lowest debiased CKA over the layers."""
    return between(partial(_cka, value_of=_lowest), (a, b))


def cka_last(*names: Names) -> Reading:
    """Debiased CKA at the last layer."""
    return between(partial(_cka, value_of=lambda found, x, y: found.value(x, y, found.layers[-1])), *names)


def cka_fall(*names: Names) -> Reading:
    """Mean debiased CKA of the first two thirds of the layers less that of the rest."""
    return between(partial(_cka, value_of=_fall), *names)


def _lowest(found: Similarity, a: str, b: str) -> float | None:
    place = found.lowest(a, b)
    return place.value if place else None


def _fall(found: Similarity, a: str, b: str) -> float | None:
    places = found.profile(a, b)
    edge = LATE * found.layers[-1]
    early = [place.value for place in places if place.layer <= edge]
    late = [place.value for place in places if place.layer > edge]
    return fmean(early) - fmean(late) if early and late else None


def _swapped(value_of: PairValue, found: Similarity, other: str, run: str) -> float | None:
    return value_of(found, run, other)


def _cka(study: Study, a: RunInfo, b: RunInfo, value_of: PairValue) -> Part:
    found = study.similarity
    if found is None:
        return Missing("CKA was not measured")
    value, why = value_of(found, a.run, b.run), study.geometry.nothing(a.run, b.run)
    if value is None or why:
        return Missing(why or f"no CKA of {a.run} and {b.run}")
    groups = order_groups(study.geometry)
    replicates = {run for group in groups for run in group}
    others = [info.run for info in study.geometry.runs if info.run not in replicates]
    spread = pooled(groups, [partial(_swapped, value_of, found, other) for other in others])
    detail = f"by layer: {', '.join(f'{place.value:.3f}' for place in found.profile(a.run, b.run))}"
    low = high = noise = None
    if spread is not None:
        low, high, noise = value - spread.half_width, min(value + spread.half_width, 1.0), spread.noise
    return Measured(f"{a.run} ~ {b.run}", value, low, high, noise, found.rows, "rows", detail)


FEWEST = 2
"""Layers in a third of the network that a variance takes."""


@dataclass(frozen=True)
class Singles:
    """One number of each method's run, in ``unit``s, over ``n`` ``of`` something; ``spread``: with the data's order."""

    what: str
    values: Mapping[str, float]
    unit: float | None
    n: int
    of: str
    spread: Pooled | None

    def less(self, a: str, b: str, decimals: int) -> Measured:
        """The difference of two methods, with the interval that the order of the data gives it."""
        unit = self.unit or 1.0
        what, value = f"{a} less {b}", (self.values[a] - self.values[b]) / unit
        detail = f"{self.values[a]:.{decimals}f} and {self.values[b]:.{decimals}f}"
        if self.spread is None:
            detail += "; no run in another data order, so no interval"
            return Measured(what, value, None, None, None, self.n, self.of, detail)
        scaled = Pooled(self.spread.rms / unit, self.spread.df, self.spread.largest / unit)
        half = scaled.half_width
        return Measured(what, value, value - half, value + half, scaled.noise, self.n, self.of, detail)

    def absent(self, *methods: str) -> list[Part]:
        """What a claim on these methods says where one has no number; empty where all have."""
        lacking = [name for name in dict.fromkeys(methods) if name not in self.values]
        return [] if self.unit and not lacking else [Missing(f"no {self.what} of {', '.join(lacking) or 'sft'}")]


def rank_above(uppers: Sequence[str], lowers: Sequence[str]) -> Reading:
    """Effective rank of each of ``uppers`` less each of ``lowers``, relative to SFT's."""

    def read(study: Study) -> list[Part]:
        found = _ranks(study)
        return found.absent("sft", *uppers, *lowers) or [found.less(a, b, 2) for a, b in product(uppers, lowers)]

    return read


def rank_range(*methods: str) -> Reading:
    """Largest less smallest effective rank of the methods, relative to SFT's."""
    return lambda study: _range(_ranks(study), methods)


def depth_range(*methods: str) -> Reading:
    """Largest less smallest logit-lens depth of the methods, relative to the number of layers."""
    return lambda study: _range(_depths(study), methods)


def _range(found: Singles, methods: Sequence[str]) -> list[Part]:
    if missing := found.absent(*methods):
        return missing
    least, most = (end(methods, key=lambda name: found.values[name]) for end in (min, max))
    part = found.less(most, least, 3)
    return [replace(part, low=None if part.low is None else max(part.low, 0.0))]


def _ranks(study: Study) -> Singles:
    def rank(run: str) -> float | None:
        return known(study.spectrum(run, "effective_rank"))

    found = {name: value for name, info in study.geometry.main.items() if (value := rank(info.run)) is not None}
    spread = pooled(order_groups(study.geometry), [rank])
    return Singles("effective rank", found, found.get("sft"), study.geometry.modules, "modules", spread)


def _depths(study: Study) -> Singles:
    deep = {run: value for run, value in depths(study.lens).items() if known(value) is not None}
    moved = {name: info.run for name, info in study.geometry.main.items() if info.run not in study.geometry.zero}
    found = {name: deep[run] for name, run in moved.items() if run in deep}
    layers = max(study.lens["layer"].drop_nulls(), default=0)
    spread = pooled(order_groups(study.geometry), [deep.get])
    return Singles("logit-lens depth", found, float(layers), max(study.lens["tokens"], default=0), "tokens", spread)


def later_third(run: str, reference: str) -> Reading:
    """Orthogonal fraction of ``run`` against ``reference``: mean of the last third of the layers less the middle's.

    Interval: Student's t over the data orders in which both were trained, where there are several; else Welch's over
    the layers, which takes two layers in each third.
    """

    return between(_later_third, (run, reference))


def _later_third(study: Study, one: RunInfo, other: RunInfo) -> Part:
    view, first = study.geometry, _thirds(study, one.run, other.run)
    if first is None:
        return Missing("no orthogonal fraction by layer, or fewer than three layers")
    thirds = [
        found
        for a, b in product(view.replicates(one), view.replicates(other))
        if a.data_seed == b.data_seed and (found := _thirds(study, a.run, b.run)) is not None
    ]
    units = [float(np.mean(last) - np.mean(middle)) for middle, last in thirds]
    middle, last = first
    value, (low, high) = float(np.mean(last) - np.mean(middle)), welch(last, middle)
    n, over = len(view.by_layer(one.run, other.run, "orthogonal_fraction")), "layers"
    detail = f"last third {np.mean(last):.3f}, middle {np.mean(middle):.3f}"
    if len(units) > 1:
        value, n, over = fmean(units), len(units), "data orders"
        low, high = t_interval(units) or (None, None)
    elif low is None:
        detail += f"; an interval takes {FEWEST} layers in each third, or several data orders"
    return Measured(f"{one.run} against {other.run}", value, low, high, None, n, over, detail)


def _thirds(study: Study, run: str, reference: str) -> tuple[list[float], list[float]] | None:
    """The middle and the last third of the layers; None below three layers."""
    values = list(study.geometry.by_layer(run, reference, "orthogonal_fraction").values())
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
