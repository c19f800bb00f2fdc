"""Bootstrap intervals over modules, clustered by layer, for many pairs at once.

The modules of one layer move together, so whole layers are drawn with replacement (the pairs cluster bootstrap).
Drawing is done once, as counts of each module, and every statistic is a function of values and counts: a ratio of sums
is ``counts @ numerators / counts @ denominators``, medians and means are here.

Shapes: ``_P`` pairs, ``_N`` modules, ``_R`` replicates.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.core.errors import InputError

Array = NDArray[np.float64]
Counts = NDArray[np.int64]


def cluster_counts(clusters: Sequence[Hashable], replicates: int, rng: np.random.Generator) -> Counts:
    """(R, N) how often each module occurs in each replicate: as often as its cluster was drawn.

    As many clusters as there are are drawn with replacement. ``clusters`` (N,) are labels (the modules' layers); a
    module labelled None is a cluster by itself. `InputError` unless there is a module and ``replicates >= 1``.
    """
    if not len(clusters) or replicates < 1:
        raise InputError(f"bootstrap of {len(clusters)} modules, {replicates} replicates: need at least 1 of each")
    index, count = _numbered(clusters)
    return rng.multinomial(count, np.full(count, 1 / count), size=replicates)[:, index]


def cluster_members(clusters: Sequence[Hashable]) -> Counts:
    """(L, N) 1 where a module is in a cluster, else 0; clusters in the order in which they first occur."""
    index, count = _numbered(clusters)
    return (np.arange(count)[:, None] == index).astype(np.int64)


def weighted_median(values_PN: Array, counts_RN: Counts) -> Array:
    """(P, R) median of the multiset that holds value n ``counts_RN[r, n]`` times.

    The mean of the two middle ones for an even total, as `numpy.median`. Values that are NaN are left out; NaN where
    nothing is left. Values are sorted once a row; memory beyond the result is a few (N, R) arrays of small integers.
    """
    _check(values_PN, counts_RN)
    largest = int(counts_RN.sum(axis=1).max(initial=0))
    counts_NR = np.ascontiguousarray(counts_RN.T, dtype=np.min_scalar_type(largest))
    medians = np.full((len(values_PN), len(counts_RN)), np.nan)
    for row_N, target_R in zip(values_PN, medians, strict=True):
        order = np.argsort(row_N)[: np.count_nonzero(~np.isnan(row_N))]  # NaN sorts last
        if order.size:
            target_R[:] = _sorted_medians(row_N[order], counts_NR[order])
    return medians


def weighted_mean(values_PN: Array, counts_RN: Counts) -> Array:
    """(P, R) mean of the same multiset: NaN values left out, NaN where nothing is left."""
    _check(values_PN, counts_RN)
    left_out = np.isnan(values_PN)
    counts_NR = counts_RN.T.astype(np.float64)
    sums, totals = np.where(left_out, 0.0, values_PN) @ counts_NR, (~left_out).astype(np.float64) @ counts_NR
    return np.divide(sums, totals, out=np.full_like(sums, np.nan), where=totals > 0)


def interval(draws_PR: Array, level: float = 0.95, clusters: int | None = None) -> tuple[Array, Array]:
    """(low (P,), high (P,)): percentile bootstrap interval of each row (Efron and Tibshirani 1993, chapter 13).

    Draws that are NaN are left out. NaN where all are, and where ``clusters`` says that fewer than 2 were drawn from:
    one cluster has no spread to resample, and would give an interval of width 0. `InputError` unless ``0 < level < 1``.

    With few clusters the interval is too narrow (Cameron, Gelbach and Miller 2008): in our simulation (layer effects
    twice as large as the modules' own) 95 % intervals of a mean held the truth in 93 % of cases with 36 layers, 91 %
    with 10, 82 % with 4. Below 10 see `tasks.geometry.chance.few_layers`.
    """
    if not 0 < level < 1:
        raise InputError(f"level is {level}; a confidence level lies between 0 and 1")
    usable = ~np.isnan(draws_PR).all(axis=1) & (clusters is None or clusters >= 2)
    bounds = np.full((2, len(draws_PR)), np.nan)
    if usable.any():
        bounds[:, usable] = np.nanquantile(draws_PR[usable], [(1 - level) / 2, (1 + level) / 2], axis=1)
    return bounds[0], bounds[1]


def _numbered(clusters: Sequence[Hashable]) -> tuple[NDArray[np.intp], int]:
    """(N,) number of each module's cluster, and how many there are."""
    numbers: dict[Hashable, int] = {}
    keys = [(label, None if label is not None else module) for module, label in enumerate(clusters)]
    index = [numbers.setdefault(key, len(numbers)) for key in keys]
    return np.array(index, dtype=np.intp), len(numbers)


def _sorted_medians(sorted_n: Array, counts_nR: NDArray[np.unsignedinteger]) -> Array:
    """(R,) medians of values in ascending order, each occurring ``counts_nR`` times."""
    up_to = np.cumsum(counts_nR, axis=0, dtype=counts_nR.dtype)
    total = up_to[-1]
    # Element j (from 0) of the multiset is the first value up to which there are more than j: the number of values with
    # at most j. The two middle elements are (total - 1) // 2 and total // 2. (An empty multiset has neither.)
    last = len(sorted_n) - 1
    low, high = (
        sorted_n[np.minimum(np.count_nonzero(up_to <= j, axis=0), last)]
        for j in ((np.maximum(total, 1) - 1) // 2, total // 2)
    )
    return np.where(total == 0, np.nan, (low + high) / 2)


def _check(values_PN: Array, counts_RN: Counts) -> None:
    if values_PN.ndim != 2 or counts_RN.ndim != 2 or values_PN.shape[1] != counts_RN.shape[1]:
        raise InputError(f"values {values_PN.shape} and counts {counts_RN.shape}: need (P, N) and (R, N)")
