"""Running sums from which linear CKA of M representations follows in feature space, whatever the number of rows.

With rows z_i of one representation and u_i of another, a_i = |z_i|^2, b_i = |u_i|^2, K = Z Z^T and L = U U^T without
their diagonals, the unbiased estimator of Song et al. 2012 (JMLR 13) is

    n (n - 3) HSIC_1 = tr(K L) + 1'K1 1'L1 / ((n - 1)(n - 2)) - 2 / (n - 2) 1'K L 1

and each of its terms is a product of sums over rows:

    tr(K L)  = |Z'U|_F^2 - sum_i a_i b_i          1'K1 = |s|^2 - sum_i a_i,  s = sum_i z_i
    1'K L 1  = (Z s - a)'(U t - b) = s'Z'U t - s'(sum_i b_i z_i) - t'(sum_i a_i u_i) + sum_i a_i b_i
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Sums:
    """The sums of M representations with ``widths`` features each, all in float64.

    Rows are shifted by the mean of the first batch: CKA does not change, and no sum is much larger than the spread.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        count = len(widths)
        self.n = 0
        self._pairs = list(combinations_with_replacement(range(count), 2))
        self._shift: list[Array] = []
        self._products = {(a, b): np.zeros((widths[a], widths[b])) for a, b in self._pairs}
        """Z'U"""
        self._first = [np.zeros(width) for width in widths]
        """s"""
        self._norms = np.zeros(count)
        """sum_i a_i"""
        self._norm_products = np.zeros((count, count))
        """sum_i a_i b_i"""
        self._weighted = [np.zeros((count, width)) for width in widths]
        """``[u][z]``: sum_i a_i u_i, the rows u_i weighted with the squared norms of representation z."""

    @staticmethod
    def nbytes(widths: Sequence[int]) -> int:
        """Bytes held, whatever the number of rows."""
        count, total = len(widths), sum(widths)
        products = sum(widths[a] * widths[b] for a, b in combinations_with_replacement(range(count), 2))
        return 8 * (products + total * (count + 2) + count * (count + 1))

    def add(self, batch: Sequence[Array]) -> None:
        """Add b rows: M arrays (b, p), finite or not."""
        if not len(batch[0]):
            return
        if not self._shift:
            # By way of the first row, so that equal rows become exactly 0.
            self._shift = [x[0] + (x - x[0]).mean(axis=0) for x in batch]
        shifted = [x - shift for x, shift in zip(batch, self._shift, strict=True)]
        norms = np.stack([np.einsum("ij,ij->i", z, z) for z in shifted])
        self.n += norms.shape[1]
        self._norms += norms.sum(axis=1)
        self._norm_products += norms @ norms.T
        for a, b in self._pairs:
            self._products[a, b] += shifted[a].T @ shifted[b]
        for first, weighted, z in zip(self._first, self._weighted, shifted, strict=True):
            first += z.sum(axis=0)
            weighted += norms @ z

    def variance(self) -> Array:
        """(M,) sum of squared distances to the mean."""
        squares = np.array([s @ s for s in self._first])
        return self._norms - squares / max(self.n, 1)

    def biased(self) -> Array:
        """(M, M) |Zc'Uc|_F^2 of the centred rows."""
        found = np.empty_like(self._norm_products)
        for a, b in self._pairs:
            centred = self._products[a, b] - np.outer(self._first[a], self._first[b] / max(self.n, 1))
            found[a, b] = found[b, a] = np.sum(centred**2)
        return found

    def unbiased(self) -> Array:
        """(M, M) n (n - 3) HSIC_1; NaN for fewer than 4 rows."""
        found = np.full_like(self._norm_products, np.nan)
        if (n := self.n) < 4:
            return found
        totals = np.array([s @ s for s in self._first]) - self._norms
        for a, b in self._pairs:
            s, t, norms = self._first[a], self._first[b], self._norm_products[a, b]
            trace = np.sum(self._products[a, b] ** 2) - norms
            rows = s @ self._products[a, b] @ t - s @ self._weighted[a][b] - t @ self._weighted[b][a] + norms
            found[a, b] = trace + totals[a] * totals[b] / ((n - 1) * (n - 2)) - 2 / (n - 2) * rows
            found[b, a] = found[a, b]
        return found
