"""Readings of claims about pairs of updates: measures of PAIR_METRICS with their intervals and noise floors.

Two methods of one initialisation are read like with like (`tasks.reporting.views.across`): their value is that of runs
in one data order, as the paper's is, and beside it stands the value across data orders, which the noise floor judges.
The interval is over what is random: over the data orders, where both methods were trained in several; otherwise it is
the frame's, over layers, which stands in for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise, product
from statistics import fmean

from tasks.core.chance import mean_overlap
from tasks.core.results import RunInfo
from tasks.reporting.claims.claim import Part, Reading, among, between, of_methods
from tasks.reporting.claims.measured import Measured, Missing, Noise, known
from tasks.reporting.estimates import Estimate, Spread
from tasks.reporting.formats import learning_rate, number
from tasks.reporting.metrics import pair_metric
from tasks.reporting.notes import percentile
from tasks.reporting.views.across import Likeness, t_interval
from tasks.reporting.views.floors import INITIALISATION, KINDS, ORDER
from tasks.reporting.views.pairs import PairEstimate
from tasks.reporting.views.study import Study

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
    return between(partial(measured, metric=metric, k=k), *names)


def order(metric: str, *levels: Sequence[Names]) -> Reading:
    """The pairs of each level less those of the next, every one: positive where the levels stand in this order."""
    measure = partial(measured, metric=metric)
    apart = [two for upper, lower in pairwise(levels) for two in product(upper, lower)]
    return lambda study: [less(of_methods(study, measure, *a), of_methods(study, measure, *b)) for a, b in apart]


def overlap_gap(*names: Names) -> Reading:
    """``|v1 v1'| - |u1 u1'|``: positive where the input directions agree more than the output directions.

    Beside it what chance gives: updates that began from one lora_A have one input subspace, so that random directions
    of it agree by 1 / sqrt(rank) or so, and random output directions only by 1 / sqrt(their dimension).
    """
    return between(_gap, *names)


def _gap(study: Study, a: RunInfo, b: RunInfo) -> Part:
    gap = less(measured(study, a, b, "v1_overlap"), measured(study, a, b, "u1_overlap"))
    if isinstance(gap, Missing):
        return gap
    view = study.geometry
    rank, (u1, v1) = view.top(a.run, b.run), (view.estimate(a.run, b.run, f"{x}1_overlap").null for x in "uv")
    if view.one_start(a, b) and rank:
        v1 = mean_overlap(rank)
    if u1 is None or v1 is None:
        return gap
    return replace(gap, null=v1 - u1, detail=f"{gap.detail}; chance {number(v1 - u1, 3)}")


def seeds(metric: str) -> Reading:
    """The metric between runs of one method and learning rate from two LoRA initialisations."""
    return among(_near_replicates, partial(measured, metric=metric), NO_SEEDS)


def _below_methods(study: Study, a: RunInfo, b: RunInfo) -> Part:
    cosine = partial(measured, metric="cosine")
    return less(of_methods(study, cosine, "sft", "rft"), cosine(study, a, b))


def rates(metric: str) -> Reading:
    """The metric between two runs that differ only in a learning rate ten times as large, the larger one first."""
    none = "no method was trained at two learning rates that differ by ten (a sweep does that)"
    return among(_ten_times, partial(measured, metric=metric), none)


def matched_dpo(metric: str) -> Reading:
    """The metric between DPO at SFT's learning rate and SFT."""
    return among(matched, partial(measured, metric=metric), NO_MATCHED)


NO_MATCHED = "no DPO was trained at SFT's learning rate (--set matched=dpo does that)"
NO_SEEDS = "no method was trained from two LoRA initialisations (init_replicates does that)"

Runs = list[tuple[RunInfo, RunInfo]]


def matched(study: Study) -> Runs:
    """The DPO run of SFT's learning rate and initialisation, with SFT."""
    sft = study.geometry.main.get("sft")
    found = (
        (i, sft) for i in study.geometry.runs if sft and i.method == "dpo" and (i.lr, i.seed) == (sft.lr, sft.seed)
    )
    return list(found)[:1]


def replicates(study: Study) -> Runs:
    """Pairs of one method from two initialisations."""
    info = {run.run: run for run in study.geometry.runs}
    return [(info[a], info[b]) for a, b in study.geometry.replicate_pairs[INITIALISATION]]


def _near_replicates(study: Study) -> Runs:
    """Those in one data order where there are some."""
    found = replicates(study)
    return [(a, b) for a, b in found if a.data_seed == b.data_seed] or found


def _ten_times(study: Study) -> Runs:
    low, high = TEN_TIMES
    return [
        (a, b)
        for a, b in product(study.geometry.runs, study.geometry.runs)
        if (a.method, a.seed, a.data_seed) == (b.method, b.seed, b.data_seed)
        and a.lr and b.lr and low <= a.lr / b.lr <= high
    ]  # fmt: skip


seeds_below_methods = among(_near_replicates, _below_methods, NO_SEEDS)
"""Cosine of two methods at one seed less that of one method at two seeds."""


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


def measured(study: Study, a: RunInfo, b: RunInfo, metric: str, k: int | None = None) -> Part:
    """A metric of two runs with all that it takes to judge it."""
    view = study.geometry
    if k == LEADING:
        k = leading(view.ks, view.top(a.run, b.run))
    if why := study.geometry.nothing(a.run, b.run):
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
    low, high, crossed, noise = known(found.low), known(found.high), None, _noise(study, metric, a, b, k)
    units = {f"layer {layer}": one for layer, one in view.by_layer(a.run, b.run, metric, k).items()}
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


def _noise(study: Study, metric: str, a: RunInfo, b: RunInfo, k: int | None) -> Noise | None:
    """What the two methods give with themselves; of methods without replicates, what those that have some do."""
    view = study.geometry
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
