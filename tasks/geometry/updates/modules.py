"""One module of many adapters: everything that the metrics of its pairs are computed from, each part once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tasks.geometry.angles import SMALL, Overlap, subspace_angles
from tasks.geometry.chance.nulls import inner_variance, shared_inner_variance
from tasks.geometry.cosine import CANCELS, module_inner, remainder
from tasks.geometry.delta import Array, Dense, Factors, Update
from tasks.geometry.factored import Basis, Factored, factor

Index = NDArray[np.int64]

_TINY = 1 - 1e-9
"""Squared cosine from which a smallest angle (below .002 degrees) is taken from its sine. Among many directions some
often nearly agree, and the cosine still gives such an angle to 2e-10 degrees."""


class Decomposed:
    """One adapter's update of one module: its SVD, and the little of its factors that is needed beside it."""

    def __init__(self, update: Update, leading: int) -> None:
        self.svd: Factored = factor(update, leading)
        self.product = isinstance(update, Factors)
        self._update = update
        self.rounded = isinstance(update, Dense) and update.rounded
        self.squared = float(np.sum(self.svd.s**2)) if self.product else module_inner(update, update)
        self.lora_a: Array | None = update.lora_a if isinstance(update, Dense) else update.A
        self.shape = update.shape

    @property
    def width(self) -> int:
        """Singular directions that it can have."""
        return len(self.svd.s)

    @cached_property
    def exact(self) -> Update:
        """The same update, a product with orthonormal factors."""
        if not self.product:
            return self._update
        left, right = self.svd.left, self.svd.right
        return Factors(left.columns @ (left.turn * self.svd.s), right.formed.T, 1.0)


@dataclass(frozen=True, eq=False)
class Overlaps:
    """Overlaps of the left or of the right singular vectors of P pairs of updates of one module."""

    bases: Sequence[Basis]
    """(dim, n) of every adapter, orthonormal columns ordered by singular value."""
    first: Index
    """(P,) place in ``bases`` of a pair's first adapter."""
    second: Index
    cosines: Array
    """(P, n, n): U_a^T U_b, zero beyond an adapter's rank."""
    rank: Index
    """(P,) largest k for which both have a top-k subspace."""
    _singular: dict[int, Array] = field(default_factory=dict, repr=False)
    """k -> singular values of the overlaps of those that have k directions."""

    @property
    def dimension(self) -> int:
        """Of the space."""
        return len(self.bases[0].columns)

    def largest_angle(self, k: int) -> Array:
        """(P,) largest principal angle in degrees between the two top-k subspaces; NaN where a rank is below k."""
        return self._angle(k, -1, SMALL)

    def smallest_angle(self, k: int) -> Array:
        """(P,) smallest principal angle in degrees between the two top-k subspaces; NaN where a rank is below k."""
        return self._angle(k, 0, _TINY)

    def _angle(self, k: int, which: int, small: float) -> Array:
        """The singular values of the (k, k) overlap are the cosines; pairs whose squared cosine is at least ``small``
        are left to `subspace_angles`, which takes the sine."""
        angles = np.full(len(self.rank), np.nan)
        fit = np.flatnonzero(self.rank >= k)
        if not fit.size:
            return angles
        if k not in self._singular:
            some = self.cosines[fit, :k, :k]
            found = np.abs(some[:, 0]) if k == 1 else np.linalg.svd(some, compute_uv=False)
            self._singular[k] = np.asarray(found, np.float64)
        cosines = self._singular[k][:, which]
        angles[fit] = np.rad2deg(np.arccos(np.clip(cosines, 0, 1)))
        for p in fit[cosines**2 >= small]:
            a, b = (self.bases[side[p]].formed for side in (self.first, self.second))
            pair = Overlap(a, b, self.cosines[p, : a.shape[1], : b.shape[1]], int(self.rank[p]))
            angles[p] = subspace_angles(pair, k)[which]
        return angles

    def similarity(self, k: int) -> Array:
        """(P,) ``phi = |U_a^T U_b|_F^2 / k`` of the top-k subspaces; NaN where a rank is below k."""
        phi = np.sum(self.cosines[:, :k, :k] ** 2, axis=(1, 2)) / k
        return np.where(self.rank >= k, phi, np.nan)

    def first_overlap(self) -> Array:
        """(P,) ``|<u1, u1'>|``; NaN where an update is zero."""
        return np.where(self.rank >= 1, np.abs(self.cosines[:, 0, 0]), np.nan)


@dataclass(frozen=True, eq=False)
class SomePairs:
    """P pairs of updates of one module. Arrays are (P,)."""

    width: Index
    """Singular directions that both can have: the smaller min(r, out, in)."""


@dataclass(frozen=True, eq=False)
class InnerPairs(SomePairs):
    """The same in an inner product: what their cosine takes."""

    inner: Array
    squared_a: Array
    squared_b: Array
    variance: Array
    """Of ``inner`` where one update's singular vectors are random: `tasks.geometry.chance.nulls.inner_variance`."""
    shared_variance: Array
    """Of ``inner`` where only one update's LEFT singular vectors are random; NaN where not all singular vectors are
    known: `tasks.geometry.chance.nulls.shared_inner_variance`."""


@dataclass(frozen=True, eq=False)
class ModulePairs(InnerPairs):
    """The same in the Frobenius inner product, and all that the other metrics take."""

    left: Overlaps
    right: Overlaps
    residual_a: Array
    """``|dW_a - P_b dW_a|_F^2``"""
    residual_b: Array
    factor_inner: Array
    """``<A_a, A_b>_F`` of the two lora_A; 0 where they cannot be compared."""
    factor_a: Array
    """``|A_a|_F^2``; 0 where the pair's lora_A cannot be compared."""
    factor_b: Array


def pair_up(updates: Sequence[Decomposed], first: Index, second: Index) -> ModulePairs:
    """Compare ``updates[first[p]]`` with ``updates[second[p]]`` for every p.

    All overlaps come out of the factors' Grams, inner products out of the overlaps:
    ``<dW_a, dW_b> = sum_ij s_i s'_j <u_i, u'_j> <v_i, v'_j>``.
    """
    rank = np.array([update.svd.rank for update in updates])
    left, right = (
        _overlaps([getattr(u.svd, side) for u in updates], rank, first, second) for side in ("left", "right")
    )
    width = max(u.width for u in updates)
    s = np.stack([np.pad(update.svd.s, (0, width - update.width)) for update in updates])
    inner = np.sum((s[first][:, None] @ (left.cosines * right.cosines))[:, 0] * s[second], axis=1)
    products = np.array([update.product for update in updates])
    for p in np.flatnonzero(~(products[first] & products[second])):
        inner[p] = module_inner(updates[first[p]].exact, updates[second[p]].exact)
    squared = np.array([update.squared for update in updates])
    out, n_in = updates[0].shape
    complete = np.array([update.svd.complete for update in updates])
    given = shared_inner_variance(s[first], s[second], right.cosines, out)
    factor_inner, factor_a, factor_b = _factors(updates, first, second)
    return ModulePairs(
        width=np.minimum(*(np.array([u.width for u in updates])[side] for side in (first, second))),
        left=left,
        right=right,
        inner=inner,
        squared_a=squared[first],
        squared_b=squared[second],
        residual_a=_residuals(updates, first, second, inner, squared),
        residual_b=_residuals(updates, second, first, inner, squared),
        factor_inner=factor_inner,
        factor_a=factor_a,
        factor_b=factor_b,
        variance=inner_variance(squared[first], squared[second], out, n_in),
        shared_variance=np.where(complete[first] & complete[second], given, np.nan),
    )


def _overlaps(bases: list[Basis], rank: Index, first: Index, second: Index) -> Overlaps:
    """One product for each adapter, with all later ones at once: memory holds no Gram of all beside the pairs'."""
    wide, width = (max(basis.turn.shape[axis] for basis in bases) for axis in (0, 1))
    turns = np.zeros((len(bases), wide, width))
    for i, (columns, turn) in enumerate(bases):
        turns[i, : columns.shape[1], : rank[i]] = turn[:, : rank[i]]  # directions beyond the rank are arbitrary
    least = int(second.min())
    others = np.hstack([_padded(basis.columns, wide) for basis in bases[least : int(second.max()) + 1]])
    cosines = np.empty((len(first), width, width))
    for i in np.unique(first):
        of = np.flatnonzero(first == i)
        to = second[of] - least
        low, high = int(to.min()), int(to.max()) + 1
        columns = bases[i].columns
        gram = turns[i, : columns.shape[1]].T @ (columns.T @ others[:, low * wide : high * wide])
        cosines[of] = gram.reshape(width, high - low, wide)[:, to - low].swapaxes(0, 1) @ turns[second[of]]
    return Overlaps(bases, first, second, cosines, np.minimum(rank[first], rank[second]))


def _padded(columns: Array, width: int) -> Array:
    return columns if columns.shape[1] == width else np.pad(columns, ((0, 0), (0, width - columns.shape[1])))


def _residuals(updates: Sequence[Decomposed], of: Index, on: Index, inner: Array, squared: Array) -> Array:
    """``|dW - P dW|^2`` on the line of the other; by itself where the subtraction would cancel."""
    dd, rr = squared[of], squared[on]
    coefficient = np.divide(inner, rr, out=np.zeros_like(inner), where=rr > 0)
    rest = dd - coefficient * inner
    for p in np.flatnonzero((rest < CANCELS * dd) & (rr > 0)):
        rest[p] = remainder(updates[of[p]].exact, updates[on[p]].exact, float(coefficient[p]))
    return rest


def _factors(updates: Sequence[Decomposed], first: Index, second: Index) -> tuple[Array, Array, Array]:
    """Inner products and squared norms of the pairs' lora_A; zeros where the two have not one shape."""
    products = np.zeros((len(updates), len(updates)))
    comparable = np.zeros(products.shape, dtype=bool)
    for shape in {u.lora_a.shape for u in updates if u.lora_a is not None}:
        members = [i for i, u in enumerate(updates) if u.lora_a is not None and u.lora_a.shape == shape]
        flat = np.stack([np.ravel(updates[i].lora_a) for i in members])  # type: ignore[arg-type]
        block = np.ix_(members, members)
        products[block], comparable[block] = flat @ flat.T, True
    squared = np.diag(products)
    both = comparable[first, second]
    return products[first, second], np.where(both, squared[first], 0.0), np.where(both, squared[second], 0.0)
