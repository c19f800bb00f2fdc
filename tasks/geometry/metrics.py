"""`PAIR_METRICS`: every comparison of two adapters, one entry a metric, and the frame that holds them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import polars as pl

from tasks.contracts import PAIR_METRICS_FRAME, InputError, RunInfo
from tasks.geometry.angles import Overlap, first_overlap, overlap, similarity, subspace_angles
from tasks.geometry.cosine import cosine_of, fraction_of, module_inner, module_residual, ratio
from tasks.geometry.delta import Factors, LoraDelta, shared
from tasks.geometry.factored import factor
from tasks.geometry.frames import Row, long_frame, mean, median


@dataclass(frozen=True, eq=False)
class ModulePair:
    """One module of two adapters: what every metric is computed from, each part once."""

    width: int
    """Singular directions that both can have: the smaller min(r, out, in)."""
    left: Overlap
    right: Overlap
    inner: float
    squared_a: float
    squared_b: float
    residual_a: float
    """``|dW_a - P_b dW_a|_F^2``"""
    residual_b: float


def module_pair(a: Factors, b: Factors) -> ModulePair:
    """Factor and compare one module."""
    svd_a, svd_b = factor(a), factor(b)
    return ModulePair(
        width=min(len(svd_a.s), len(svd_b.s)),
        left=overlap(svd_a, svd_b, "left"),
        right=overlap(svd_a, svd_b, "right"),
        inner=module_inner(a, b),
        squared_a=module_inner(a, a),
        squared_b=module_inner(b, b),
        residual_a=module_residual(a, b),
        residual_b=module_residual(b, a),
    )


@dataclass(frozen=True)
class PairMetric:
    """One metric of a pair of adapters.

    ``module(pair, k)`` is one module's value, ``overall(pairs, values)`` the one of module "*", from all modules and
    their values; NaN where it is not defined. ``by_k``: one value for each subspace dimension k.
    """

    module: Callable[[ModulePair, int], float]
    overall: Callable[[Sequence[ModulePair], Sequence[float]], float]
    by_k: bool = False


def _median(_: Sequence[ModulePair], values: Sequence[float]) -> float:
    return median(values)


def _mean(_: Sequence[ModulePair], values: Sequence[float]) -> float:
    return mean(values)


def _global(measure: Callable[..., float], *parts: str) -> PairMetric:
    """A metric of sums over entries: the same formula for one module's ``parts`` and for their sums over all."""
    return PairMetric(
        module=lambda pair, _: measure(*(getattr(pair, part) for part in parts)),
        overall=lambda pairs, _: measure(*(sum(getattr(pair, part) for pair in pairs) for part in parts)),
    )


def _norm_ratio(squared_a: float, squared_b: float) -> float:
    value = ratio(squared_a, squared_b)
    return value if math.isnan(value) else math.sqrt(max(0.0, value))


def _largest_angle(pair: Overlap, k: int) -> float:
    return float(subspace_angles(pair, k)[-1]) if k <= pair.rank else math.nan


def _similarity(pair: Overlap, k: int) -> float:
    return similarity(pair, k) if k <= pair.rank else math.nan


PAIR_METRICS: dict[str, PairMetric] = {
    "cosine": _global(cosine_of, "inner", "squared_a", "squared_b"),
    "norm_ratio": _global(_norm_ratio, "squared_a", "squared_b"),
    "orthogonal_fraction": _global(fraction_of, "residual_a", "squared_a"),
    "orthogonal_fraction_reverse": _global(fraction_of, "residual_b", "squared_b"),
    "u1_overlap": PairMetric(lambda pair, _: first_overlap(pair.left), _mean),
    "v1_overlap": PairMetric(lambda pair, _: first_overlap(pair.right), _mean),
    "angle_left": PairMetric(lambda pair, k: _largest_angle(pair.left, k), _median, by_k=True),
    "angle_right": PairMetric(lambda pair, k: _largest_angle(pair.right, k), _median, by_k=True),
    "phi_left": PairMetric(lambda pair, k: _similarity(pair.left, k), _mean, by_k=True),
    "phi_right": PairMetric(lambda pair, k: _similarity(pair.right, k), _mean, by_k=True),
}
"""Metric name -> how it is computed.

cosine, norm_ratio (|a| / |b|), orthogonal_fraction (a outside the span of b, module by module; ``_reverse``: b outside
that of a): "*" is the value over all entries of all shared modules.
u1_overlap, v1_overlap, phi_left, phi_right: "*" is the mean over modules.
angle_left, angle_right: the LARGEST principal angle in degrees between the two top-k subspaces, so k = 1 is the paper's
top-1 angle and k = 10 its worst of top-10; "*" is the median over modules.
"""


def pair_frame(a: LoraDelta, b: LoraDelta, info_a: RunInfo, info_b: RunInfo, ks: Sequence[int]) -> pl.DataFrame:
    """Every metric of `PAIR_METRICS` for every shared module and for "*", in the PAIR_METRICS_FRAME schema.

    ``ks``: subspace dimensions. A k above min(r, out, in) of either update of a module has no row there (and none at
    all where that holds for every module). Null marks a value that is not defined: a zero update, which has no
    direction, or a k above its numerical rank; aggregates over modules leave such modules out.

    Raises `InputError` when the adapters share no module or a module's shapes differ. Modules of one side only are
    left out; `tasks.geometry.delta.unshared` lists them.
    """
    if any(k < 1 for k in ks):
        raise InputError(f"geometry.ks is {tuple(ks)}; subspace dimensions are at least 1")
    pairs = {name: module_pair(a.modules[name], b.modules[name]) for name in shared(a, b)}
    rows: list[Row] = []
    for name, metric in PAIR_METRICS.items():
        for k in sorted(set(ks)) if metric.by_k else [None]:
            rows += _rows(name, metric, k, pairs)
    runs = {
        f"{name}_{side}": value for side, info in (("a", info_a), ("b", info_b)) for name, value in asdict(info).items()
    }
    return long_frame(rows, runs, PAIR_METRICS_FRAME, "pair_metrics")


def _rows(name: str, metric: PairMetric, k: int | None, pairs: dict[str, ModulePair]) -> list[Row]:
    dimension = k or 1  # a metric without k ignores it, and every module has a first direction
    compared = {module: pair for module, pair in pairs.items() if dimension <= pair.width}
    values = {module: metric.module(pair, dimension) for module, pair in compared.items()}
    rows: list[Row] = [(module, name, k, value) for module, value in values.items()]
    if rows:
        rows.append(("*", name, k, metric.overall(list(compared.values()), list(values.values()))))
    return rows
