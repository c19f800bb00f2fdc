"""Thin SVD of one module's update in factored form: two small triangles and an r x r SVD instead of an out x in one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from tasks.geometry.delta import LARGEST, SMALLEST, Array, Factors, Update, formed

DENSE_LIMIT = 1024
"""Smaller side up to which a dense update is decomposed whole; above it, only its leading directions."""

_WELL = 1.5
"""Mean inverse eigenvalue of a Gram (of columns of norm 1) up to which its Cholesky factor alone is exact enough: what
it loses is less than r eps."""

_LOSS = 1e-3
"""Departure from orthonormality after one Cholesky QR from which Householder's is taken instead."""


class Basis(NamedTuple):
    """Orthonormal columns, not multiplied out: ``columns @ turn``."""

    columns: Array
    """(n, m), of condition near 1"""
    turn: Array
    """(m, r)"""

    @property
    def formed(self) -> Array:
        """(n, r) the columns themselves."""
        return self.columns @ self.turn


@dataclass(frozen=True, eq=False)
class Factored:
    """``dW = U diag(s) V^T``, singular values descending; n = min(r, out, in) columns for a factored update.

    ``complete``: whether every non-zero singular value is among ``s``. Only a large dense update is not.
    """

    left: Basis
    """U, not multiplied out."""
    s: Array
    """(n,)"""
    right: Basis
    """V, not multiplied out."""
    complete: bool = True

    @cached_property
    def U(self) -> Array:
        """(out, n), orthonormal columns."""
        return self.left.formed

    @cached_property
    def V(self) -> Array:
        """(in, n), orthonormal columns."""
        return self.right.formed

    @property
    def rank(self) -> int:
        """Numerical rank. Directions beyond it are arbitrary and are never compared."""
        return int(np.count_nonzero(self.s))


def factor(update: Update, leading: int = 32) -> Factored:
    """SVD of an update; of a large one that is no product only its ``leading`` directions.

    ``scale * B A``: from QR(B), QR(A^T) and the SVD of the small core; O((out + in) r^2). Singular values up to
    ``max(out, in) * eps * |scale| |B|_F |A|_F`` are rounding (which is relative to the factors, not to the largest
    singular value) and are set to 0, so that a zero update has rank 0.
    """
    if not isinstance(update, Factors):
        return _dense(formed(update), leading)
    basis_out, upper_out = _qr(update.B)
    basis_in, upper_in = _qr(update.A.T)
    left, s, right = np.linalg.svd(update.scale * (upper_out @ upper_in.T), full_matrices=False)
    magnitude = abs(update.scale) * np.linalg.norm(update.B) * np.linalg.norm(update.A)
    rounding = max(update.shape) * np.finfo(np.float64).eps * magnitude
    return Factored(
        Basis(basis_out.columns, basis_out.turn @ left),
        np.where(s > rounding, s, 0.0),
        Basis(basis_in.columns, basis_in.turn @ right.T),
    )


def _qr(x: Array) -> tuple[Basis, Array]:
    """Thin QR of a tall matrix (n, r): by Cholesky, several times as fast as Householder's.

    Its columns are first scaled to norm 1. One pass leaves an error of condition^2 * eps in the orthonormality: of well
    conditioned columns (`_WELL`) rounding. Of others a second pass (Yamamoto et al. 2015) removes it as long as it is
    small; where it is not (columns nearly dependent, or zero) Householder's QR is taken. R is triangular in none of the
    cases: only ``x = Q R`` matters. The last pass is left to `Basis`.
    """
    n, r = x.shape
    gram = x.T @ x
    norms = np.sqrt(np.diag(gram))
    if n <= r or not ((norms > SMALLEST) & (norms < LARGEST)).all():  # zero, or its square is not exact
        return _householder(x)
    try:
        upper = _cholesky(gram / np.outer(norms, norms))
        inverse = np.asarray(np.linalg.inv(upper), np.float64)
        if np.sum(inverse**2) <= _WELL * r:
            return Basis(x, inverse / norms[:, None]), upper * norms
        once = _divided(x / norms, upper, inverse)
        gram = once.T @ once
        if not np.abs(gram - np.eye(r)).max() <= _LOSS:  # NaN, where squares overflow, is a loss too
            return _householder(x)
        again = _cholesky(gram)
    except np.linalg.LinAlgError:
        return _householder(x)
    return Basis(once, np.asarray(np.linalg.inv(again), np.float64)), again @ (upper * norms)


def _cholesky(gram: Array) -> Array:
    return np.asarray(np.linalg.cholesky(gram).T, np.float64)


def _householder(x: Array) -> tuple[Basis, Array]:
    q, r = np.linalg.qr(x)
    return Basis(q, np.eye(q.shape[1])), r


def _divided(x: Array, upper: Array, inverse: Array) -> Array:
    """``x upper^-1``: what the product with the inverse leaves of ``x`` is divided once more, which makes it as exact
    as substitution."""
    found = x @ inverse
    found += (x - found @ upper) @ inverse
    return found


def _dense(w: Array, leading: int) -> Factored:
    """All singular triplets of a small matrix, the leading ones of a large one by ARPACK (seeded start vector)."""
    whole = min(w.shape) <= max(DENSE_LIMIT, leading + 1)
    if whole:
        left, s, right = np.linalg.svd(w, full_matrices=False)
    elif not w.any():  # which ARPACK refuses
        left, s, right = np.eye(w.shape[0], leading), np.zeros(leading), np.eye(leading, w.shape[1])
        return _known(left, s, right, complete=True)
    else:
        from scipy.sparse.linalg import svds

        start = np.random.default_rng(0).standard_normal(min(w.shape))
        left, s, right = svds(w, k=leading, v0=start)
        order = np.argsort(s)[::-1]
        left, s, right = left[:, order], s[order], right[order]
    s = np.where(s > max(w.shape) * np.finfo(np.float64).eps * s[0], s, 0.0)
    return _known(left, s, right, complete=whole or not s[-1])


def _known(left: Array, s: Array, right: Array, complete: bool) -> Factored:
    same = np.eye(len(s))
    return Factored(Basis(left, same), s, Basis(right.T, same), complete)
