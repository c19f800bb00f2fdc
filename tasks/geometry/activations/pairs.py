"""The activation-weighted cosine of every pair of updates: the cosine in the inner product ``tr(dW S dW'^T)``.

With orthonormal left factors, ``dW = L R``, all of it comes from ``G = R S R'^T`` of r x r entries:
``<dW, dW'>_S = sum((L^T L') * G)``.

Chance is a random update of the same norm under the same S: of ``tr(dW S dW'^T)`` with singular vectors of dW' drawn
anew the mean square is ``|dW S|^2 |dW'|_S^2 / (out tr S)`` (the expectation of the product over that of the squared
norm; each of the two updates is drawn in turn, and the mean taken); for S = 1 that is the plain cosine's. Given the
right singular vectors it is ``|G|^2 / out``, exactly. Both laws are sums of many small terms, and taken as normal.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import polars as pl

from tasks.core.frames import PAIR_METRICS_FRAME
from tasks.core.results import Progress, RunInfo, no_progress
from tasks.geometry.activations.moments import Moment, Moments
from tasks.geometry.chance.nulls import normal_percentile
from tasks.geometry.cosine import cosine_of
from tasks.geometry.delta import Array, Factors, NotFinite, Source, Update, formed, natural
from tasks.geometry.factored import factor
from tasks.geometry.tables.pairs import PairTable
from tasks.geometry.updates.measure import ModuleMeasure
from tasks.geometry.updates.modules import Index, InnerPairs
from tasks.geometry.updates.random_subspaces import DRAWS, SEED, ModuleChance

NAME = "activation_cosine"
PARTS = ("inner", "squared_a", "squared_b", "variance", "shared_variance")
ROUNDING = 1e-5
"""Share of ``|dW|_S^2`` with the diagonal of S alone below which it is rounding: S is in float32."""


def weighted_pairs(updates: Sequence[Update], moment: Moment, first: Index, second: Index) -> InnerPairs:
    """``updates[first[p]]`` and ``updates[second[p]]`` for every p, all of one shape (out, in)."""
    sides = [_sides(update) for update in updates]
    after = [moment.times(right) for _, right in sides]
    diagonal = moment.diagonal
    squared = np.array([np.vdot(rows, right) for rows, (_, right) in zip(after, sides, strict=True)])
    alone = np.array([np.sum(right**2 @ diagonal) for _, right in sides])
    squared = np.where(squared > ROUNDING * alone, squared, 0.0)
    doubled = np.array([np.sum(rows**2) for rows in after])
    inner, shared = np.zeros(len(first)), np.zeros(len(first))
    for p, (i, j) in enumerate(zip(first, second, strict=True)):
        gram = after[i] @ sides[j][1].T
        inner[p] = _joined(sides[i][0], gram, sides[j][0])
        shared[p] = np.sum(gram**2)
    out, trace = updates[0].shape[0], max(float(np.sum(diagonal)), float(np.finfo(np.float64).tiny))
    one_random = doubled[first] * squared[second] + doubled[second] * squared[first]
    return InnerPairs(
        width=np.ones(len(first), dtype=np.int64),
        inner=inner,
        squared_a=squared[first],
        squared_b=squared[second],
        variance=one_random / (2 * out * trace),
        shared_variance=shared / out,
    )


def _sides(update: Update) -> tuple[Array | None, Array]:
    """(L, R) with ``dW = L R`` and orthonormal columns in L; None stands for the identity."""
    if not isinstance(update, Factors):
        return None, formed(update)
    svd = factor(update)
    return svd.U, svd.s[:, None] * svd.V.T


def _joined(left: Array | None, gram: Array, other: Array | None) -> float:
    """``tr(L G L'^T)``"""
    rows = gram if left is None else left @ gram
    return float(np.trace(rows) if other is None else np.vdot(rows, other))


def activation_frame(
    sources: Sequence[Source], infos: Sequence[RunInfo], moments: Moments, progress: Progress = no_progress
) -> pl.DataFrame:
    """The metric ``activation_cosine`` of every pair, in the PAIR_METRICS_FRAME schema: rows, groups, intervals and
    nulls as the cosine's (`PairTable.frame`).

    A module without a second moment, or with entries that are not finite, is left out: "*" is over the others.
    """
    names = sorted({name for source in sources for name in source.shapes if name in moments}, key=natural)
    if not names:
        return pl.DataFrame(schema=PAIR_METRICS_FRAME)
    number = {pair: place for place, pair in enumerate(combinations(range(len(sources)), 2))}
    table = PairTable(names, len(sources), PARTS)
    for place, name in enumerate(names):
        progress(place, len(names), "modules")
        updates: dict[int, Update] = {}
        for i, source in enumerate(sources):
            if name in source.shapes:
                try:
                    updates[i] = source.read(name)
                except NotFinite:  # the plain measures name it
                    continue
        couples = list(combinations(range(len(updates)), 2))
        if not couples:
            continue
        members = list(updates)
        first, second = (np.array(side, dtype=np.int64) for side in zip(*couples, strict=True))
        pairs = weighted_pairs(list(updates.values()), moments.of(name), first, second)
        value = cosine_of(pairs.inner, pairs.squared_a, pairs.squared_b)
        places = np.array([number[members[a], members[b]] for a, b in couples], dtype=np.int64)
        shape = updates[members[0]].shape
        key = ("cosine", None)
        table.add(ModuleMeasure(name, shape, {}, places, pairs, {key: value}, _chance(place, pairs, value)))
    progress(len(names), len(names), "modules")
    return table.frame(infos).with_columns(metric=pl.lit(NAME))


def _chance(place: int, pairs: InnerPairs, value: Array) -> ModuleChance:
    sd = np.sqrt(pairs.variance)
    drawn = np.random.default_rng((SEED, 4, place)).standard_normal((DRAWS, len(sd))) * sd
    lengths = np.sqrt(pairs.squared_a) * np.sqrt(pairs.squared_b)
    with np.errstate(divide="ignore", invalid="ignore"):
        rank = normal_percentile(value, np.where(lengths > 0, sd / lengths, np.nan))
    return ModuleChance({("cosine", None): 0.0}, {("cosine", None): rank}, {}, drawn)
