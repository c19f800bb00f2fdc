"""What random subspaces of the same shape give: the null beside every cosine, overlap and angle.

A random r-dimensional subspace of R^n is spanned by a Haar (uniform) orthonormal frame: its law does not change when
the space is rotated. Two updates that have nothing to do with each other, of given singular values, are modelled by
independent Haar frames for their left and for their right singular vectors.

Then a module's cosine has mean 0 and variance ``1 / (out * in)``, exactly and whatever the two spectra. With overlaps
``L = U^T U'`` and ``R = V^T V'`` the inner product is ``sum_pq s_p s'_q L_pq R_pq``. A Haar frame's law does not change
under a flip of the sign of one of its columns, so products of two different entries of L have mean 0, and
``E L_pq^2 = 1 / out`` because the squares of a unit vector's coordinates have equal means and sum to 1; likewise for R
with ``in``. Hence ``E inner^2 = sum_pq s_p^2 s'_q^2 / (out * in) = |dW|^2 |dW'|^2 / (out * in)``.

Adapters that began from one lora_A share much of their input subspace whatever they learned. What they have in common
beyond that is judged by a second null, GIVEN the right singular vectors: R stays as it was measured and L alone is
random. Then ``E inner^2 = sum_pq s_p^2 s'_q^2 R_pq^2 / out``, which is the same on average where the right vectors are
unrelated (``E R_pq^2 = 1 / in``), and ``in / r`` times as much for two flat spectra on one subspace of r directions.
The inner product is linear in L, a sum of many small terms, so the law of a cosine over all modules is normal to within
``1 / out`` of a module and less of several: its percentile needs no draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tasks.core.chance import mean_overlap
from tasks.core.errors import InputError

Array = NDArray[np.float64]


def overlap_draws(n: int, a: int, b: int, draws: int, rng: np.random.Generator) -> Array:
    """(draws, a, b) exact samples of ``U^T U'`` for independent Haar frames U (n, a) and U' (n, b).

    The cost does not depend on n: only the law of ``U^T U'`` matters, so U may be the first ``a`` axes and U' the Q
    factor of an (n, b) Gaussian. The lower n - a rows of that Gaussian enter through their own triangular factor
    alone, which Bartlett's decomposition draws directly: chi with n - a - i degrees of freedom at (i, i), standard
    normal to the right of it (Muirhead 1982, theorem 3.2.14; only n - a rows of it where n - a < b). The top ``a`` rows
    of the Q factor of the two stacked are the overlaps.

    `InputError` unless ``1 <= a <= n`` and ``1 <= b <= n``.
    """
    if not (1 <= a <= n and 1 <= b <= n):
        raise InputError(f"frames of {a} and {b} columns in {n} dimensions: need 1 to {n} columns")
    if a < b:  # the transposed overlaps have the same law, and a QR with fewer columns
        return overlap_draws(n, b, a, draws, rng).transpose(0, 2, 1)
    rows = min(b, n - a)
    stacked = rng.standard_normal((draws, a + rows, b))
    lower = stacked[:, a:]
    lower *= np.triu(np.ones((rows, b)))
    if rows:
        diagonal = np.arange(rows)
        lower[:, diagonal, diagonal] = np.sqrt(rng.chisquare(n - a - diagonal, size=(draws, rows)))
    frames, triangles = np.linalg.qr(stacked)
    # A Q factor is Haar only if R's diagonal is positive (Mezzadri 2007); LAPACK's has signs that depend on the input.
    signs = np.copysign(1.0, np.diagonal(triangles, axis1=1, axis2=2))
    return np.asarray(frames[:, :a] * signs[:, None, :])


def extreme_angles(overlaps: Array, k: int, which: Literal["largest", "smallest"] = "largest") -> Array:
    """(draws,) largest or smallest principal angles in degrees, ascending, of the two leading k-dimensional subspaces.

    ``overlaps`` is (draws, r, r') and ``1 <= k <= min(r, r')``, else `InputError`. Angles below 1e-6 degrees are
    rounding: they occur where 2 k > n, when the subspaces must meet.
    """
    if not 1 <= k <= min(overlaps.shape[1:]):
        raise InputError(f"k is {k}; these subspaces have 1 to {min(overlaps.shape[1:])} dimensions")
    cosines = np.linalg.svd(overlaps[:, :k, :k], compute_uv=False)[:, -1 if which == "largest" else 0]
    return np.asarray(np.sort(np.rad2deg(np.arccos(np.clip(cosines, 0.0, 1.0)))))


def expected_overlap(n: int) -> float:
    """`tasks.core.chance.mean_overlap` of R^n, whose n is checked."""
    _check_dimension(n)
    return mean_overlap(n)


def expected_similarity(n: int, k: int) -> float:
    """``E phi = k / n`` for ``phi = |U_a^T U_b|_F^2 / k``: k^2 squared overlaps, each of mean 1 / n."""
    _check_dimension(n)
    if not 1 <= k <= n:
        raise InputError(f"k is {k}; a subspace of {n} dimensions has 1 to {n}")
    return k / n


def inner_draws(products: Array, s: Array) -> Array:
    """(D, M, M) inner products ``<dW_i, dW_j>`` of M updates of one module, their singular vectors being random.

    ``products`` (D, r, r): draws of the overlaps of the output side times draws of those of the input side, entry by
    entry; ``s`` (M, r) the singular values, padded with zeros to one r. Entry (i, j) is
    ``sum_pq s_ip left_pq right_pq s_jq``: for i != j a draw for that pair. The pairs of one draw are not independent of
    each other, and the diagonal is no update's norm: it is not to be used.
    """
    draws, r = products.shape[:2]
    if products.shape != (draws, r, r) or s.ndim != 2 or s.shape[1] != r:
        raise InputError(f"products {products.shape}, singular values {s.shape}: need one r for all")
    turned = products.reshape(draws * r, r) @ s.T  # one large product instead of D small ones
    return np.asarray(s @ turned.reshape(draws, r, len(s)))


def inner_variance(squared_P: Array, other_P: Array, out: int, n_in: int) -> Array:
    """(P,) variance of the inner products of updates of these squared norms, where the directions of one are random."""
    return squared_P * other_P / (out * n_in)


def shared_inner_variance(s_Pn: Array, other_Pn: Array, right_Pnn: Array, out: int) -> Array:
    """(P,) variance of the inner products where only the left singular vectors of one update are random.

    ``s_Pn`` and ``other_Pn``: singular values of the two; ``right_Pnn``: V^T V' as measured.
    """
    return np.asarray(np.sum(((s_Pn**2)[:, None] @ right_Pnn**2)[:, 0] * other_Pn**2, axis=1) / out)


def normal_percentile(values: Array, sd: Array) -> Array:
    """Percent (0 to 100) of a normal law around 0 below each value; NaN for a value or an ``sd`` that is NaN or 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        deviations = np.where(sd > 0, values / sd, np.nan)
    # Not SciPy's ndtr, whose import takes longer than a comparison's numbers.
    return np.array([50 * math.erfc(-one / math.sqrt(2)) for one in deviations.ravel().tolist()]).reshape(values.shape)


def percentile(values: ArrayLike, null_sorted: Array, tie: float = 0.0) -> Array:
    """Percent (0 to 100) of the null's draws below each value, draws equal to it counted half; NaN stays NaN.

    ``values`` has any shape, ``null_sorted`` is (D,) ascending without NaN, else `InputError`. Draws within ``tie`` of
    a value count as equal to it: for angles that are 0 but for rounding.
    """
    if null_sorted.ndim != 1 or null_sorted.size == 0 or np.isnan(null_sorted[-1]):
        raise InputError(f"a null of shape {null_sorted.shape}: need (D,) draws, ascending, none of them NaN")
    x = np.asarray(values, dtype=np.float64)
    below = np.searchsorted(null_sorted, x - tie, side="left")
    up_to = np.searchsorted(null_sorted, x + tie, side="right")
    return np.where(np.isnan(x), np.nan, 50.0 * (below + up_to) / null_sorted.size)


def percentile_columns(values: Array, draws: Array) -> Array:
    """(P,) as `percentile`, where value p has its own null ``draws[:, p]`` of (D, P), in any order.

    NaN for a value that is NaN and for a null that holds one.
    """
    if draws.ndim != 2 or len(draws) == 0 or values.shape != draws.shape[1:]:
        raise InputError(f"values {values.shape} and draws {draws.shape}: need (P,) and (D, P) with D >= 1")
    ranks = 50.0 * ((draws < values).mean(axis=0) + (draws <= values).mean(axis=0))
    return np.where(np.isnan(values) | np.isnan(draws).any(axis=0), np.nan, ranks)


def median_null(pools: Sequence[Array], rng: np.random.Generator) -> Array:
    """(D,) ascending: the null of a median over modules, ``pools[m]`` (D,) being draws of module m's null.

    A draw of it is the median of one independent draw of every module, which an independent permutation of every
    module's pool gives. Modules of one shape may share one pool: the permutations then coincide in a share 1 / D of the
    draws only. `InputError` for no pool, or pools of unequal size.
    """
    return _null_of(pools, rng, np.median)


def mean_null(pools: Sequence[Array], rng: np.random.Generator) -> Array:
    """(D,) ascending: the null of a mean over modules. As `median_null`."""
    return _null_of(pools, rng, np.mean)


def _null_of(pools: Sequence[Array], rng: np.random.Generator, statistic: Callable[..., Array]) -> Array:
    if len({pool.shape for pool in pools}) != 1 or pools[0].ndim != 1:
        raise InputError(f"null pools of shapes {sorted({pool.shape for pool in pools})}: need one (D,) for all")
    return np.asarray(np.sort(statistic(rng.permuted(np.stack(pools), axis=1), axis=0)))


def _check_dimension(n: int) -> None:
    if n < 1:
        raise InputError(f"n is {n}; a space has at least 1 dimension")
