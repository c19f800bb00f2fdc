"""Readings of claims about pairs of updates: measures of PAIR_METRICS with their intervals and noise floors.

Two methods of one initialisation are read like with like (`tasks.reporting.views.across`): their value is that of runs
in one data order, as the paper's is, and beside it stands the value across data orders, which the noise floor judges.
The interval is over what is random: over the data orders, where both methods were trained in several; otherwise it is
the frame's, over layers, which stands in for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise, product
from statistics import fmean

import polars as pl

from tasks.core.chance import mean_overlap
from tasks.core.results import RunInfo
from tasks.reporting.claims.claim import Part, Reading
from tasks.reporting.claims.evidence import Evidence
from tasks.reporting.claims.measured import Measured, Missing, Noise, known
from tasks.reporting.estimates import Estimate, Spread
from tasks.reporting.formats import learning_rate, number
from tasks.reporting.metrics import INVERSE, REVERSED, pair_metric
from tasks.reporting.notes import percentile
from tasks.reporting.views.across import Likeness, t_interval
from tasks.reporting.views.floors import INITIALISATION, KINDS, ORDER
from tasks.reporting.views.pairs import PairEstimate

LEADING = -1
"""Stands for the subspace dimension that is to this rank what the paper's 10 is to its 32."""
PAPER_SHARE = 10 / 32
FEWEST_DIMENSIONS = 2
"""One dimension is another claim, of first vectors; all dimensions of the rank are the whole update with its noise."""

SURE = 97.5
"""Percent of random subspaces that must be less alike, for a likeness to be one."""

TEN_TIMES = (9.0, 11.0)
"""Range of the ratio of two learning rates that counts as ten times."""

Names = tuple[str, str]


def pairs(metric: str, *names: Names, k: int | None = None) -> Reading:
    """The metric between the runs of two methods, pair by pair; of the first in or against the second."""

    def read(evidence: Evidence) -> list[Part]:
        return [_of_methods(evidence, metric, a, b, k) for a, b in names]

    return read


def order(metric: str, *levels: Sequence[Names]) -> Reading:
    """The pairs of each level less those of the next, every one: positive where the levels stand in this order."""

    def read(evidence: Evidence) -> list[Part]:
        return [
            less(_of_methods(evidence, metric, *high), _of_methods(evidence, metric, *low))
            for upper, lower in pairwise(levels)
            for high, low in product(upper, lower)
        ]

    return read


def overlap_gap(*names: Names) -> Reading:
    """``|v1 v1'| - |u1 u1'|``: positive where the input directions agree more than the output directions.

    Beside it what chance gives: updates that began from one lora_A have one input subspace, so that random directions
    of it agree by 1 / sqrt(rank) or so, and random output directions only by 1 / sqrt(their dimension).
    """

    def read(evidence: Evidence) -> list[Part]:
        return [
            _with_chance(
                evidence, a, b,
                less(_of_methods(evidence, "v1_overlap", a, b), _of_methods(evidence, "u1_overlap", a, b)),
            )
            for a, b in names
        ]  # fmt: skip

    return read


def _with_chance(evidence: Evidence, a: str, b: str, gap: Part) -> Part:
    if isinstance(gap, Missing):
        return gap
    view, one, other = evidence.view, evidence.main[a], evidence.main[b]
    rank, u1 = view.top(one.run, other.run), view.estimate(one.run, other.run, "u1_overlap").null
    v1 = view.estimate(one.run, other.run, "v1_overlap").null
    if view.one_start(one, other) and rank:
        v1 = mean_overlap(rank)
    if u1 is None or v1 is None:
        return gap
    detail = f"{gap.detail}; chance {number(v1 - u1, 3)}"
    return replace(gap, null=v1 - u1, detail=detail)


def seeds(metric: str) -> Reading:
    """The metric between runs of one method and learning rate from two LoRA initialisations."""

    def read(evidence: Evidence) -> list[Part]:
        replicates = _twins(evidence)
        return [_measured(evidence, metric, a, b) for a, b in replicates] or [Missing(_NO_SEEDS)]

    return read


def seeds_below_methods(evidence: Evidence) -> list[Part]:
    """Cosine of two methods at one seed less that of one method at two seeds."""
    near = _of_methods(evidence, "cosine", "sft", "rft")
    replicates = _twins(evidence)
    return [less(near, _measured(evidence, "cosine", a, b)) for a, b in replicates] or [Missing(_NO_SEEDS)]


def rates(metric: str) -> Reading:
    """The metric between two runs that differ only in a learning rate ten times as large, the larger one first."""

    def read(evidence: Evidence) -> list[Part]:
        runs = evidence.view.runs
        low, high = TEN_TIMES
        found = [
            (a, b)
            for a, b in product(runs, runs)
            if (a.method, a.seed, a.data_seed) == (b.method, b.seed, b.data_seed)
            and a.lr and b.lr and low <= a.lr / b.lr <= high
        ]  # fmt: skip
        none = Missing("no method was trained at two learning rates that differ by ten (a sweep does that)")
        return [_measured(evidence, metric, a, b) for a, b in found] or [none]

    return read


def matched_dpo(metric: str) -> Reading:
    """The metric between DPO at SFT's learning rate and SFT."""

    def read(evidence: Evidence) -> list[Part]:
        found = dpo_at_rate(evidence)
        reference = evidence.main.get("sft")
        return [_measured(evidence, metric, found, reference) if found and reference else Missing(NO_MATCHED)]

    return read


NO_MATCHED = "no DPO was trained at SFT's learning rate (--set matched=dpo does that)"
_NO_SEEDS = "no method was trained from two LoRA initialisations (init_replicates does that)"


def dpo_at_rate(evidence: Evidence) -> RunInfo | None:
    """The DPO run of SFT's learning rate and initialisation."""
    sft = evidence.main.get("sft")
    found = (i for i in evidence.view.runs if sft and i.method == "dpo" and (i.lr, i.seed) == (sft.lr, sft.seed))
    return next(found, None)


def less(upper: Part, lower: Part) -> Part:
    """The difference of two measures: its interval is over the data orders or layers that both were taken in, one by
    one; where they have none in common, the widest that the two intervals allow."""
    if isinstance(upper, Missing):
        return upper
    if isinstance(lower, Missing):
        return lower
    value = upper.value - lower.value
    common = [unit for unit in upper.units if unit in lower.units]
    units = {unit: upper.units[unit] - lower.units[unit] for unit in common}
    bounds = t_interval(list(units.values()), value)
    low = None if upper.low is None or lower.high is None else upper.low - lower.high
    high = None if upper.high is None or lower.low is None else upper.high - lower.low
    if bounds is not None:
        low, high = bounds
    detail = f"{number(upper.value, 3)} less {number(lower.value, 3)}"
    noise = _noise_of_difference(upper.noise, lower.noise)
    what = upper.what if upper.what == lower.what else f"{upper.what} less {lower.what}"
    return Measured(what, value, low, high, noise, min(upper.n, lower.n), upper.of, detail, units=units)


def _noise_of_difference(upper: Noise | None, lower: Noise | None) -> Noise | None:
    """Of two measures of one method with itself: what their difference is where nothing but noise is."""
    if upper is None or lower is None or upper.kind != lower.kind:
        return None
    apart = max(upper.high - lower.low, lower.high - upper.low)
    return Noise(f"difference within one method, {upper.kind}", -apart, apart, min(upper.n, lower.n))


def _twins(evidence: Evidence) -> list[tuple[RunInfo, RunInfo]]:
    """Pairs of one method from two initialisations; those in one data order where there are some."""
    info = {run.run: run for run in evidence.view.runs}
    found = [(info[a], info[b]) for a, b in evidence.view.replicate_pairs[INITIALISATION]]
    return [(a, b) for a, b in found if a.data_seed == b.data_seed] or found


def _of_methods(evidence: Evidence, metric: str, a: str, b: str, k: int | None = None) -> Part:
    absent = [name for name in (a, b) if name not in evidence.main]
    if absent:
        return Missing(f"no run of {' or '.join(absent)}")
    return _measured(evidence, metric, evidence.main[a], evidence.main[b], k)


def _measured(evidence: Evidence, metric: str, a: RunInfo, b: RunInfo, k: int | None = None) -> Part:
    view = evidence.view
    if k == LEADING:
        k = leading(view.ks, view.top(a.run, b.run))
    if why := evidence.empty(a.run, b.run):
        return Missing(why)
    found = view.estimate(a.run, b.run, metric, k)
    value = known(found.value)
    if value is None:
        return Missing(f"{metric} of {a.run} and {b.run} is {view.missing(a.run, b.run, metric, k)}")
    rank = percentile(found)
    notes = [
        f"k = {k}" if k is not None else "",
        f"percentile {rank} of random subspaces" if rank else "",
        f"lr {learning_rate(a.lr)} against {learning_rate(b.lr)}" if a.lr != b.lr else "",
    ]
    low, high, crossed, noise = known(found.low), known(found.high), None, _noise(evidence, metric, a, b, k)
    units = {f"layer {layer}": one for layer, one in by_layer(evidence, metric, a.run, b.run, k).items()}
    n, over = view.modules, f"modules, {view.layers} layers"
    if view.one_start(a, b) and view.replicate(a, b) is None:
        alike = view.likeness(a, b, metric, k)
        crossed = _crossed(alike)
        if len(alike.one_order) > 1:
            units = {f"order {order}": one for order, one in alike.one_order.items()}
            value, n, over = fmean(units.values()), len(units), "data orders"
            low, high = t_interval(list(units.values())) or (None, None)
        if crossed is not None:
            notes.append(f"across data orders {number(crossed.value, 3)}")
    detail = ", ".join(note for note in notes if note)
    return Measured(
        f"{a.run} ~ {b.run}", value, low, high, noise, n, over, detail,
        crossed=crossed, units=units, beats_chance=_beats(found, metric),
    )  # fmt: skip


def leading(ks: Sequence[int], rank: int | None) -> int | None:
    """Of the dimensions ``ks`` that were measured the one nearest the paper's share of the rank; the larger of two."""
    if rank is None:
        return None
    target = max(PAPER_SHARE * rank, FEWEST_DIMENSIONS)
    fitting = [k for k in ks if FEWEST_DIMENSIONS <= k < rank]
    return min(fitting, key=lambda k: (abs(k - target), -k), default=None)


def _crossed(alike: Likeness) -> Estimate | None:
    if alike.mean is None:
        return None
    low, high = t_interval(alike.shifted, alike.mean) or (None, None)
    return Estimate(alike.mean, low, high, len(alike.across))


def _noise(evidence: Evidence, metric: str, a: RunInfo, b: RunInfo, k: int | None) -> Noise | None:
    """What the two methods give with themselves; of methods without replicates, what those that have some do."""
    view = evidence.view
    if view.one_start(a, b) is False and view.replicate(a, b) is None:
        start = view.start_floor(a, b, metric, k)
        return Noise.of(start, KINDS[INITIALISATION]) if start else None
    own = view.likeness(a, b, metric, k).floor if view.one_start(a, b) else view.likeness(a, a, metric, k).within[0]
    if own:
        return Noise.of(Spread(own), KINDS[ORDER])
    floor = view.floor_of(ORDER, metric, k)
    return Noise.of(floor, f"{KINDS[ORDER]} of other methods") if floor else None


def _beats(found: PairEstimate, metric: str) -> bool | None:
    if found.percentile is None:
        return None
    return found.percentile <= 100 - SURE if pair_metric(metric).nearer == "low" else found.percentile >= SURE


def by_layer(evidence: Evidence, metric: str, run: str, other: str, k: int | None = None) -> Mapping[int, float]:
    """Layer -> the measure over its modules, where it is defined; empty for a frame without layers."""
    layers = (pl.col("module") == "*") & pl.col("layer").is_not_null() & pl.col("projection").is_null()
    kept = evidence.tables.pair_metrics.filter(layers, pl.col("k").eq_missing(k), pl.col("value").is_finite())
    for a, b, name, turned in ((run, other, metric, False), (other, run, REVERSED.get(metric, metric), True)):
        rows = kept.filter(pl.col("run_a") == a, pl.col("run_b") == b, pl.col("metric") == name).sort("layer")
        if rows.height:
            values = dict(rows.select("layer", "value").iter_rows())
            inverted = turned and pair_metric(metric).turned == INVERSE
            return {layer: 1 / one if inverted else one for layer, one in values.items() if one or not inverted}
    return {}
