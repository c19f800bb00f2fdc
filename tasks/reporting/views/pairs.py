"""Views of the geometry: measures of pairs of updates, and the noise floors that every one of them is read against."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations

import numpy as np
import polars as pl

from tasks.core.results import RunInfo
from tasks.reporting.estimates import Estimate, Spread
from tasks.reporting.formats import NOT_MEASURED, number
from tasks.reporting.metrics import INVERSE, REVERSED, pair_metric
from tasks.reporting.views.across import Difference, Likeness, difference, likeness
from tasks.reporting.views.floors import INITIALISATION, KINDS, ORDER, floor_of, kind_of, same_initialisation

AT_FLOOR, BELOW_FLOOR, IS_FLOOR = "at the noise floor", "below the noise floor", "noise floor: data order"
"""How two methods stand to what each is to itself, both across data orders."""
COMMON_NOISE = "in one data order only: no floor applies"
"""Of two methods neither of which was trained in a second order."""
AT_START, BELOW_START, IS_START = (
    "at the initialisation floor",
    "below the initialisation floor",
    "noise floor: initialisation",
)
NO_FLOOR, OTHER_SEED = "no noise floor measured", "other initialisation"
UNKNOWN_START = "initialisation unknown"

UNDEFINED, ZERO = "undefined", "undefined (zero update)"
"""What a measure that was taken and has no value prints as: a zero update has no direction."""

REACHED = (AT_FLOOR, IS_FLOOR, AT_START, IS_START)
"""Standings of a pair that is as near as a method is to itself, or is a method beside itself."""

EVERYTHING = (pl.col("module") == "*") & pl.col("layer").is_null() & pl.col("projection").is_null()
"""Rows over all shared modules; module "*" with a layer or a projection is the value of that part."""

LAYERS = (pl.col("module") == "*") & pl.col("layer").is_not_null() & pl.col("projection").is_null()
"""Rows over the modules of one layer each."""

IDENTICAL = 1e-9
"""Distance from 1, of cosine and norm ratio, below which two updates are one: double precision leaves less."""

LR_OF_DPO = 0.1
"""DPO's learning rate over the others' in the paper."""

_Key = tuple[str, str, str, int | None]
_Values = Mapping[_Key, "PairEstimate"]


@dataclass(frozen=True)
class PairEstimate(Estimate):
    """A metric of a pair, its interval over modules, beside chance. ``null``: mean over random subspaces of the same
    shape; ``percentile``: percent of the null's draws at or below the value.

    Of a cosine over everything also ``null_sd``, the null's standard deviation, and ``shared_null_sd`` and
    ``shared_percentile``, those of the null given the common input subspace."""

    null: float | None = None
    percentile: float | None = None
    null_sd: float | None = None
    shared_null_sd: float | None = None
    shared_percentile: float | None = None

    def inverse(self) -> PairEstimate:
        """The estimate of one over the metric, which has no null."""
        value, low, high = (1 / part if part else None for part in (self.value, self.high, self.low))
        return PairEstimate(value, low, high)


@dataclass(frozen=True)
class Geometry:
    """Pair metrics over everything that a pair shares, ready to look up. Build it with `geometry_of`."""

    runs: tuple[RunInfo, ...]
    reference: RunInfo | None
    """The run that the others are compared with."""
    replicate_pairs: Mapping[str, tuple[tuple[str, str], ...]]
    """Kind of floor -> the pairs of runs that measure it; two runs with one and the same update measure nothing."""
    floor: float | None
    """The lowest cosine of a pair of `ORDER`: what the order of the data alone does to a direction."""
    ks: tuple[int, ...]
    """Subspace dimensions at which all pairs have principal angles (but for those that have none at all)."""
    tops: Mapping[tuple[str, str], int]
    """Pair, as the frame has it -> its own largest subspace dimension: the smaller of its ranks."""
    modules: int
    """Modules that a value over everything is taken over."""
    layers: int
    values: _Values
    zero: frozenset[str] = frozenset()
    """Runs whose update is zero."""
    layered: Mapping[_Key, Mapping[int, PairEstimate]] = field(default_factory=dict)
    """The same of the modules of each layer."""

    @property
    def near(self) -> pl.Expr:
        """Rows of pairs with the reference."""
        reference = self.reference.run if self.reference else None
        return (pl.col("run_a") == reference) | (pl.col("run_b") == reference)

    def estimate(self, run: str, other: str, metric: str, k: int | None = None) -> PairEstimate:
        """A metric of ``run`` against ``other``, whichever way round the frame has the pair."""
        if (run, other, metric, k) in self.values:
            return self.values[run, other, metric, k]
        found = self.values.get((other, run, REVERSED.get(metric, metric), k), PairEstimate(None))
        if pair_metric(metric).turned != INVERSE:
            return found
        nothing = run in self.zero and other not in self.zero  # 0 over something is 0, though its inverse is undefined
        return PairEstimate(0.0) if nothing and (other, run, metric, k) in self.values else found.inverse()

    def along(self, run: str, other: str, metric: str, k: int | None = None) -> dict[int, PairEstimate]:
        """`estimate` over the modules of each layer, layers ascending; empty for a frame without layers."""
        if (found := self.layered.get((run, other, metric, k))) is None:
            found = self.layered.get((other, run, REVERSED.get(metric, metric), k), {})
            if pair_metric(metric).turned == INVERSE:
                found = {layer: one.inverse() for layer, one in found.items()}
        return dict(sorted(found.items()))

    def by_layer(self, run: str, other: str, metric: str, k: int | None = None) -> dict[int, float]:
        """Layer -> the value there, where it has one."""
        found = {layer: one.value for layer, one in self.along(run, other, metric, k).items()}
        return {layer: value for layer, value in found.items() if value is not None and math.isfinite(value)}

    def value(self, run: str, other: str, metric: str, k: int | None = None) -> float | None:
        return self.estimate(run, other, metric, k).value

    def top(self, run: str, other: str) -> int | None:
        """The pair's own largest subspace dimension."""
        return self.tops.get((run, other), self.tops.get((other, run)))

    def cosine(self, run: str, other: str) -> float | None:
        if run == other:
            return None if run in self.zero else 1.0
        return self.value(run, other, "cosine")

    def same(self, run: str, other: str) -> bool:
        """Whether two runs have one and the same update, but for rounding."""
        return run != other and _same(self.values, run, other)

    def missing(self, run: str, other: str, metric: str, k: int | None = None) -> str:
        """What stands where a measure has no value: nobody took it, it is not defined, or one update is zero."""
        names = ((run, other, metric), (other, run, REVERSED.get(metric, metric)))
        if {run, other} & self.zero or self._no_direction(run, other):
            return ZERO
        return UNDEFINED if any((*name, k) in self.values for name in names) else NOT_MEASURED

    def _no_direction(self, run: str, other: str) -> bool:
        """Whether one of the two is zero in the modules that they share."""
        found = self.values.get((run, other, "cosine", None)) or self.values.get((other, run, "cosine", None))
        return found is not None and found.value is None

    def replicate(self, run: RunInfo, other: RunInfo) -> str | None:
        """The kind of floor that this pair measures, or None."""
        return self.kind(run.run, other.run)

    def kind(self, run: str, other: str) -> str | None:
        """The same by the runs' names."""
        names = {(run, other), (other, run)}
        return next((kind for kind, pairs in self.replicate_pairs.items() if names & set(pairs)), None)

    def replicate_label(self, run: str, other: str) -> str:
        """What stands under the name of a pair that measures a floor: `IS_FLOOR`, `IS_START`, or nothing."""
        kind = self.kind(run, other)
        return "" if kind is None else IS_FLOOR if kind == ORDER else IS_START

    def floor_of(self, kind: str, metric: str, k: int | None = None) -> Spread | None:
        """One floor of one measure; None where it was not measured."""
        return floor_of(self.value(a, b, metric, k) for a, b in self.replicate_pairs[kind])

    @cached_property
    def main(self) -> dict[str, RunInfo]:
        """One run a method: of the reference's seeds where there is one, and for DPO nearest a tenth of its learning
        rate, for the others nearest that rate; then the study's first. Empty without a reference."""
        reference = self.reference
        if reference is None:
            return {}

        def off(info: RunInfo) -> tuple[bool, bool, float]:
            target = (reference.lr or 0.0) * (LR_OF_DPO if info.method == "dpo" else 1.0)
            ratio = (info.lr or 0.0) / target if target else 1.0
            apart = max(ratio, 1 / ratio) if ratio else 0
            return info.seed != reference.seed, info.data_seed != reference.data_seed, apart

        methods = dict.fromkeys(info.method for info in self.runs)
        return {name: min((i for i in self.runs if i.method == name), key=off) for name in methods}

    def nothing(self, *runs: str) -> str:
        """Why a claim on these runs would be judged from nothing: one never moved, or two are one; else empty."""
        still = [run for run in runs if run in self.zero]
        if still:
            return f"the update of {still[0]} is zero: it is still the base"
        same = [(a, b) for a, b in combinations(dict.fromkeys(runs), 2) if self.same(a, b)]
        return f"{same[0][0]} and {same[0][1]} have one and the same update" if same else ""

    def replicates(self, run: RunInfo) -> tuple[RunInfo, ...]:
        """``run`` and the runs that differ from it in the order of the data alone, in the runs' order."""
        known = {info.run: info for info in self.runs}
        found = {run.run} | {one for pair in self.replicate_pairs[ORDER] if run.run in pair for one in pair}
        return tuple(known.get(name, run) for name in [info.run for info in self.runs] if name in found) or (run,)

    def likeness(self, run: RunInfo, other: RunInfo, metric: str, k: int | None = None) -> Likeness:
        """A measure of two methods of one initialisation: in one data order, across orders, and of each with itself."""
        return likeness(
            self.replicates(run), self.replicates(other), lambda a, b: self.value(a, b, metric, k),
            distance=pair_metric(metric).nearer == "low",
        )  # fmt: skip

    def difference(self, run: RunInfo, other: RunInfo) -> Difference | None:
        """What ``other``'s update has beyond ``run``'s, and whether it comes back in another order of the data."""
        return difference(
            self.replicates(run), self.replicates(other), self.cosine, lambda a, b: self.value(a, b, "norm_ratio")
        )

    def one_start(self, run: RunInfo, other: RunInfo) -> bool | None:
        """Whether two runs began from one LoRA initialisation; None where it cannot be told."""
        return same_initialisation(run, other, self.value(run.run, other.run, "lora_a_cosine"))

    def start_floor(self, run: RunInfo, other: RunInfo, metric: str, k: int | None = None) -> Spread | None:
        """What the two runs' own methods give with themselves from another initialisation, at the same rate."""
        own = {(info.method, info.lr) for info in (run, other)}
        known = {info.run: info for info in self.runs}
        pairs = [(a, b) for a, b in self.replicate_pairs[INITIALISATION] if (known[a].method, known[a].lr) in own]
        return floor_of(self.value(a, b, metric, k) for a, b in pairs)

    def standing(self, run: RunInfo, other: RunInfo, metric: str = "cosine") -> str:
        """How a cosine of the pair's methods stands to what each of them is to itself; empty where not measured.

        From one initialisation: their cosine across data orders against the lowest of one method with itself (see
        `tasks.reporting.views.across`). From two: this cosine against the same method from two initialisations.
        """
        cosine = self.value(run.run, other.run, metric)
        if cosine is None or run.run == other.run:
            return ""
        replicate = self.replicate(run, other)
        if replicate is not None:
            return IS_FLOOR if replicate == ORDER else IS_START
        if not any(self.replicate_pairs.values()):
            return NO_FLOOR
        same = self.one_start(run, other)
        if same is None:
            return UNKNOWN_START
        if not same:
            start = self.start_floor(run, other, metric)
            return OTHER_SEED if start is None else AT_START if cosine >= start.lowest else BELOW_START
        found = self.likeness(run, other, metric)
        if found.mean is None or not found.floor:
            return COMMON_NOISE if self.replicate_pairs[ORDER] else NO_FLOOR
        return AT_FLOOR if found.mean >= min(found.floor) else BELOW_FLOOR


def across_note(view: Geometry, run: RunInfo, other: RunInfo, metric: str = "cosine") -> str:
    """What stands beside a cosine of two methods in one data order: that across orders, which the floor judges."""
    if view.replicate(run, other) is not None or not view.one_start(run, other):
        return ""
    mean = view.likeness(run, other, metric).mean
    return "" if mean is None else f"across data orders {number(mean, 3)}"


def geometry_of(runs: Sequence[RunInfo], pair_metrics: pl.DataFrame, reference: RunInfo | None) -> Geometry:
    """``pair_metrics`` (PAIR_METRICS_FRAME) of ``runs``, ready to look up, with the noise floors that are in it."""
    columns = ["run_a", "run_b", "metric", "k", "value", "low", "high", "null", "percentile"]
    columns += ["null_sd", "shared_null_sd", "shared_percentile"]
    rows = pair_metrics.filter(pl.col("module") == "*", pl.col("projection").is_null()).select("layer", *columns)
    values: dict[_Key, PairEstimate] = {}
    layered: dict[_Key, dict[int, PairEstimate]] = {}
    for layer, a, b, metric, k, value, low, high, *nulls in rows.iter_rows():
        estimate = PairEstimate(value, low, high, None, *nulls)
        if layer is None:
            values[a, b, metric, k] = estimate
        else:
            layered.setdefault((a, b, metric, k), {})[layer] = estimate
    modules = pair_metrics.filter(pl.col("module") != "*").select("module", "layer", "projection").unique()
    starts = [(a, b, _either(values, a.run, b.run, "lora_a_cosine")) for a, b in combinations(runs, 2)]
    kinds = [(kind_of(a, b, start), a.run, b.run) for a, b, start in starts]
    replicates = {
        kind: tuple((a, b) for found, a, b in kinds if found == kind and not _same(values, a, b)) for kind in KINDS
    }
    # Two adapters of other ranks have other full dimensions, so not every k is in every pair.
    dimensions: dict[tuple[str, str], set[int]] = {}
    for (a, b, metric, k), found in values.items():
        if metric == "angle_left" and k is not None and found.value is not None:
            dimensions.setdefault((a, b), set()).add(k)
    view = Geometry(
        runs=tuple(runs),
        reference=reference,
        replicate_pairs=replicates,
        floor=None,
        ks=tuple(sorted(set.intersection(*dimensions.values()))) if dimensions else (),
        tops={pair: max(found) for pair, found in dimensions.items()},
        modules=modules["module"].n_unique(),
        layers=modules.filter(pl.col("layer").is_not_null())
        .select("layer", tower=pl.col("projection").str.extract(r"^(.+)\.\*\."))
        .n_unique(),
        values=values,
        zero=_zero(values, runs),
        layered=layered,
    )
    order = view.floor_of(ORDER, "cosine")
    return replace(view, floor=order.lowest if order else None)


def _zero(values: _Values, runs: Sequence[RunInfo]) -> frozenset[str]:
    """Runs of which no share is outside any other, not even none of it: only a zero update has no such share."""
    shares: dict[str, list[float | None]] = {}
    for (a, b, metric, _), found in values.items():
        for run, own in ((a, "orthogonal_fraction"), (b, "orthogonal_fraction_reverse")):
            if metric == own:
                shares.setdefault(run, []).append(found.value)
    return frozenset(info.run for info in runs if info.run in shares and set(shares[info.run]) == {None})


def _either(values: _Values, a: str, b: str, metric: str) -> float | None:
    found = values.get((a, b, metric, None)) or values.get((b, a, metric, None))
    return found.value if found else None


def _same(values: _Values, a: str, b: str) -> bool:
    ones = [_either(values, a, b, metric) for metric in ("cosine", "norm_ratio")]
    return all(one is not None and abs(one - 1) < IDENTICAL for one in ones)


def cosine_matrix(view: Geometry) -> np.ndarray:
    """(M, M) global cosines of the runs in their order; NaN where not measured."""
    cosines = [[view.cosine(a.run, b.run) for b in view.runs] for a in view.runs]
    return np.array(cosines, dtype=np.float64).reshape(len(view.runs), len(view.runs))


def pairs(view: Geometry) -> list[tuple[RunInfo, RunInfo]]:
    """Every pair of runs: the noise floors' first, then those with the reference, then the rest."""

    def rank(pair: tuple[RunInfo, RunInfo]) -> tuple[bool, bool]:
        return view.replicate(*pair) is None, view.reference not in pair

    return sorted(combinations(view.runs, 2), key=rank)


def grouped(alike: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Runs joined by pairs, each group in the order in which it was met."""
    groups: list[list[str]] = []
    for pair in alike:
        touched = [group for group in groups if set(group) & set(pair)]
        merged = list(dict.fromkeys([*(run for group in touched for run in group), *pair]))
        groups = [group for group in groups if group not in touched] + [merged]
    return groups


def identical(view: Geometry) -> list[list[str]]:
    """Groups of runs whose updates are equal but for rounding: nothing that was trained tells them apart."""
    return grouped((a.run, b.run) for a, b in combinations(view.runs, 2) if view.same(a.run, b.run))
