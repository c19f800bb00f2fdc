"""`PAIR_METRICS`: every comparison of two adapters, one entry a metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tasks.geometry.chance.bootstrap import Counts, weighted_mean, weighted_median
from tasks.geometry.cosine import cosine_of, fraction_of, ratio_of
from tasks.geometry.delta import Array
from tasks.geometry.updates.modules import ModulePairs

Key = tuple[str, int | None]
"""(metric, k); k is None where a metric has none."""

Null = Literal[
    "inner", "residual_a", "residual_b",
    "angle_left", "angle_right", "least_left", "least_right", "first_left", "first_right", "phi_left", "phi_right",
]  # fmt: skip
"""Which of the nulls of `tasks.geometry.updates.random_subspaces` a metric has."""


@dataclass(frozen=True)
class PairMetric:
    """One metric of pairs of adapters.

    ``module(pairs, k)`` is the value of one module, (P,). ``overall(parts, values, counts)`` is that of several modules
    together: ``parts`` name -> (P, N) sums of `ModulePairs` by module (0 where a pair has not the module), ``values``
    (P, N) the modules' values (NaN where there is none), ``counts`` (R, N) how often each module counts; (P, R). NaN
    where it is not defined. ``by_k``: one value for each subspace dimension k. ``null``: what random subspaces give it.
    ``span``: its smallest and largest value; None for a ratio of norms, positive and without an upper end.
    ``is_median``: whether several modules have the median of their values.
    """

    module: Callable[[ModulePairs, int], Array]
    overall: Callable[[Mapping[str, Array], Array, Counts], Array]
    by_k: bool = False
    null: Null | None = None
    span: tuple[float, float] | None = (0.0, 1.0)
    is_median: bool = False


def _mean(_: Mapping[str, Array], values: Array, counts: Counts) -> Array:
    return weighted_mean(values, counts)


def _median(_: Mapping[str, Array], values: Array, counts: Counts) -> Array:
    return weighted_median(values, counts)


def _global(
    measure: Callable[..., Array],
    *names: str,
    null: Null | None = None,
    span: tuple[float, float] | None = (0.0, 1.0),
) -> PairMetric:
    """A metric of sums over entries: the same formula for one module's parts and for their sums over several."""
    return PairMetric(
        module=lambda pairs, _: measure(*(getattr(pairs, name) for name in names)),
        overall=lambda parts, _, counts: measure(*(parts[name] @ counts.T for name in names)),
        null=null,
        span=span,
    )


def _angle(module: Callable[[ModulePairs, int], Array], null: Null) -> PairMetric:
    """A principal angle in degrees of two subspaces of k dimensions."""
    return PairMetric(module, _median, by_k=True, null=null, span=(0.0, 90.0), is_median=True)


PARTS = (
    "inner", "squared_a", "squared_b", "residual_a", "residual_b", "factor_inner", "factor_a", "factor_b",
    "variance", "shared_variance",
)  # fmt: skip
"""Fields of `ModulePairs` that add up over modules."""

PAIR_METRICS: dict[str, PairMetric] = {
    "cosine": _global(cosine_of, "inner", "squared_a", "squared_b", null="inner", span=(-1.0, 1.0)),
    "norm_ratio": _global(ratio_of, "squared_a", "squared_b", span=None),
    "orthogonal_fraction": _global(fraction_of, "residual_a", "squared_a", null="residual_a"),
    "orthogonal_fraction_reverse": _global(fraction_of, "residual_b", "squared_b", null="residual_b"),
    "lora_a_cosine": _global(cosine_of, "factor_inner", "factor_a", "factor_b", span=(-1.0, 1.0)),
    "u1_overlap": PairMetric(lambda pairs, _: pairs.left.first_overlap(), _mean, null="first_left"),
    "v1_overlap": PairMetric(lambda pairs, _: pairs.right.first_overlap(), _mean, null="first_right"),
    "angle_left": _angle(lambda pairs, k: pairs.left.largest_angle(k), "angle_left"),
    "angle_right": _angle(lambda pairs, k: pairs.right.largest_angle(k), "angle_right"),
    "angle_min_left": _angle(lambda pairs, k: pairs.left.smallest_angle(k), "least_left"),
    "angle_min_right": _angle(lambda pairs, k: pairs.right.smallest_angle(k), "least_right"),
    "phi_left": PairMetric(lambda pairs, k: pairs.left.similarity(k), _mean, by_k=True, null="phi_left"),
    "phi_right": PairMetric(lambda pairs, k: pairs.right.similarity(k), _mean, by_k=True, null="phi_right"),
}
"""Metric name -> how it is computed.

cosine, norm_ratio (|a| / |b|), orthogonal_fraction (a outside the span of b, module by module; ``_reverse``: b outside
that of a), lora_a_cosine (of the two matrices lora_A: near 1, the adapters share their initialisation): the value of
several modules is the one over all entries of all of them.
u1_overlap, v1_overlap, phi_left, phi_right: several modules have the mean.
angle_left, angle_right: the LARGEST principal angle in degrees between the two top-k subspaces (k = 10: the paper's
worst of top-10); angle_min_left, angle_min_right: the SMALLEST; several modules have the median. The paper's "top-1
angle" must be the smallest at k = 10: as the angle between u1 and u1', its median of 54.6 degrees between SFT and DPO
would force a mean |<u1, u1'>| of at least .29, and it reports .11.
"""


def module_values(pairs: ModulePairs, ks: tuple[int, ...]) -> dict[Key, Array]:
    """(metric, k) -> (P,) values of one module; NaN where not defined. k above every pair's width is left out."""
    values: dict[Key, Array] = {}
    for name, metric in PAIR_METRICS.items():
        if not metric.by_k:
            values[name, None] = metric.module(pairs, 1)
            continue
        for k in ks:
            if k <= int(np.max(pairs.width)):
                values[name, k] = metric.module(pairs, k)
    return values
