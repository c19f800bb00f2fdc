"""Readings of claims about pairs of updates: measures of PAIR_METRICS with their intervals and noise floors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, product

from tasks.contracts import RunInfo
from tasks.reporting.claims.claim import Part, Reading
from tasks.reporting.claims.evidence import Evidence
from tasks.reporting.claims.measured import Measured, Missing, Noise, known
from tasks.reporting.floors import INITIALISATION, KINDS, ORDER, same_initialisation
from tasks.reporting.formats import learning_rate, number
from tasks.reporting.notes import percentile

LARGEST = -1
"""Stands for the largest subspace dimension that all pairs have, up to the paper's."""
PAPER_K = 10

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
    """``|v1 v1'| - |u1 u1'|``: positive where the input directions agree more than the output directions."""

    def read(evidence: Evidence) -> list[Part]:
        return [
            less(_of_methods(evidence, "v1_overlap", a, b), _of_methods(evidence, "u1_overlap", a, b)) for a, b in names
        ]

    return read


def seeds(metric: str) -> Reading:
    """The metric between runs of one method and learning rate from two LoRA initialisations."""

    def read(evidence: Evidence) -> list[Part]:
        twins = _twins(evidence)
        return [_measured(evidence, metric, a, b) for a, b in twins] or [Missing(_NO_SEEDS)]

    return read


def seeds_below_methods(evidence: Evidence) -> list[Part]:
    """Cosine of two methods at one seed less that of one method at two seeds."""
    near = _of_methods(evidence, "cosine", "sft", "rft")
    twins = _twins(evidence)
    return [less(near, _measured(evidence, "cosine", a, b)) for a, b in twins] or [Missing(_NO_SEEDS)]


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
_NO_SEEDS = "no method was trained from two LoRA initialisations (init_twins does that)"


def dpo_at_rate(evidence: Evidence) -> RunInfo | None:
    """The DPO run of SFT's learning rate and initialisation."""
    sft = evidence.main.get("sft")
    found = (i for i in evidence.view.runs if sft and i.method == "dpo" and (i.lr, i.seed) == (sft.lr, sft.seed))
    return next(found, None)


def less(upper: Part, lower: Part) -> Part:
    """The difference of two measures. Its interval is the widest that the two allow, as they are not independent."""
    if isinstance(upper, Missing):
        return upper
    if isinstance(lower, Missing):
        return lower
    low = None if upper.low is None or lower.high is None else upper.low - lower.high
    high = None if upper.high is None or lower.low is None else upper.high - lower.low
    detail = f"{number(upper.value, 3)} less {number(lower.value, 3)}"
    noise = _noise_of_difference(upper.noise, lower.noise)
    what = upper.what if upper.what == lower.what else f"{upper.what} less {lower.what}"
    return Measured(what, upper.value - lower.value, low, high, noise, min(upper.n, lower.n), upper.of, detail)


def _noise_of_difference(upper: Noise | None, lower: Noise | None) -> Noise | None:
    """Of two measures of one method with itself: what their difference is where nothing but noise is."""
    if upper is None or lower is None or upper.kind != lower.kind:
        return None
    apart = max(upper.high - lower.low, lower.high - upper.low)
    return Noise(f"difference within one method, {upper.kind}", -apart, apart, min(upper.n, lower.n))


def _twins(evidence: Evidence) -> list[tuple[RunInfo, RunInfo]]:
    """Pairs of one method from two initialisations; those in one data order where there are some."""
    info = {run.run: run for run in evidence.view.runs}
    found = [(info[a], info[b]) for a, b in evidence.view.twins[INITIALISATION]]
    return [(a, b) for a, b in found if a.data_seed == b.data_seed] or found


def _of_methods(evidence: Evidence, metric: str, a: str, b: str, k: int | None = None) -> Part:
    absent = [name for name in (a, b) if name not in evidence.main]
    if absent:
        return Missing(f"no run of {' or '.join(absent)}")
    return _measured(evidence, metric, evidence.main[a], evidence.main[b], k)


def _measured(evidence: Evidence, metric: str, a: RunInfo, b: RunInfo, k: int | None = None) -> Part:
    view = evidence.view
    if k == LARGEST:
        k = max((dimension for dimension in view.ks if dimension <= PAPER_K), default=None)
    if why := evidence.empty(a.run, b.run):
        return Missing(why)
    found = view.estimate(a.run, b.run, metric, k)
    value = known(found.value)
    if value is None:
        return Missing(f"{metric} of {a.run} and {b.run} is {view.missing(a.run, b.run, metric, k)}")
    same = same_initialisation(a, b, view.value(a.run, b.run, "lora_a_cosine"))
    kind = INITIALISATION if same is False and view.twin(a, b) is None else ORDER
    floor = view.floor_of(kind, metric, k)
    noise = Noise(KINDS[kind], floor.lowest, floor.highest, floor.n) if floor else None
    rank = percentile(found)
    notes = [
        f"k = {k}" if k is not None else "",
        f"percentile {rank} of random subspaces" if rank else "",
        f"lr {learning_rate(a.lr)} against {learning_rate(b.lr)}" if a.lr != b.lr else "",
    ]
    detail = ", ".join(note for note in notes if note)
    over = f"modules, {view.layers} layers"
    return Measured(f"{a.run} ~ {b.run}", value, known(found.low), known(found.high), noise, view.modules, over, detail)
