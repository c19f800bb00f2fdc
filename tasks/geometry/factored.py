"""Thin SVD of one module's update in factored form: two QRs and an r x r SVD instead of an out x in one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.geometry.delta import Array, Factors


@dataclass(frozen=True, eq=False)
class Factored:
    """``dW = U diag(s) V^T`` with ``n = min(r, out, in)`` columns, singular values descending."""

    U: Array
    """(out, n), orthonormal columns."""
    s: Array
    """(n,)"""
    V: Array
    """(in, n), orthonormal columns."""

    @property
    def rank(self) -> int:
        """Numerical rank. Directions beyond it are arbitrary and are never compared."""
        return int(np.count_nonzero(self.s))


def factor(factors: Factors) -> Factored:
    """SVD of ``scale * B A`` from QR(B), QR(A^T) and the SVD of the small core; O((out + in) r^2).

    Singular values up to ``max(out, in) * eps * |scale| |B|_F |A|_F`` are rounding (which is relative to the factors,
    not to the largest singular value) and are set to 0, so that a zero update has rank 0.
    """
    basis_out, upper_out = np.linalg.qr(factors.B)
    basis_in, upper_in = np.linalg.qr(factors.A.T)
    left, s, right = np.linalg.svd(factors.scale * (upper_out @ upper_in.T), full_matrices=False)
    magnitude = abs(factors.scale) * np.linalg.norm(factors.B) * np.linalg.norm(factors.A)
    rounding = max(factors.shape) * np.finfo(np.float64).eps * magnitude
    return Factored(basis_out @ left, np.where(s > rounding, s, 0.0), basis_in @ right.T)
