"""Principal angles and overlaps between the singular subspaces of two updates, from r x r overlaps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from tasks.core.errors import InputError
from tasks.geometry.delta import Array, LoraDelta, shared
from tasks.geometry.factored import Factored, factor

Side = Literal["left", "right"]

SMALL = 0.9999
"""Squared cosine (angle below .57 degrees) from which the sine gives the angle: arccos loses eps / sin(angle)."""


@dataclass(frozen=True, eq=False)
class Overlap:
    """Two orthonormal bases of one space, ordered by singular value, and their overlaps."""

    a: Array
    """(dim, n_a)"""
    b: Array
    """(dim, n_b)"""
    cosines: Array
    """(n_a, n_b) = a^T b"""
    rank: int
    """Largest k for which both have a top-k subspace: the smaller of the two numerical ranks."""


def overlap(a: Factored, b: Factored, side: Side) -> Overlap:
    """Overlap of the left (output) or right (input) singular vectors of two updates of one module."""
    basis_a, basis_b = (a.U, b.U) if side == "left" else (a.V, b.V)
    return Overlap(basis_a, basis_b, basis_a.T @ basis_b, min(a.rank, b.rank))


def subspace_angles(pair: Overlap, k: int) -> Array:
    """(k,) principal angles in degrees, ascending, between the two top-k subspaces; ``k <= pair.rank``.

    Large angles from the cosines, the singular values of the (k, k) overlap; small ones from the sines, the singular
    values of what is left of one basis outside the other's span (Bjorck and Golub 1973; Knyazev and Argentati 2002).
    """
    _check_k(k)
    cosines = np.linalg.svd(pair.cosines[:k, :k], compute_uv=False)
    angles = np.arccos(np.clip(cosines, 0.0, 1.0))
    small = cosines**2 >= SMALL
    if small.any():
        rest = pair.b[:, :k] - pair.a[:, :k] @ pair.cosines[:k, :k]
        sines = np.linalg.svd(rest, compute_uv=False)[::-1]
        angles = np.where(small, np.arcsin(np.clip(sines, 0.0, 1.0)), angles)
    return np.rad2deg(np.maximum.accumulate(angles))


def principal_angles(a: LoraDelta, b: LoraDelta, k: int = 10, side: Side = "left") -> dict[str, Array]:
    """Module -> principal angles in degrees, ascending, between the top-k singular subspaces of two adapters.

    ``side`` is "left" (output space) or "right" (input space). Shape (k,) in every shared module. Where k exceeds
    the numerical rank of either update, both subspaces are cut to that rank, so the array is shorter; it is empty for
    a zero update, which spans nothing.

    Examples
    --------
    Two updates of rank 1 that share their input direction, with output directions 30 degrees apart:

    >>> import numpy as np
    >>> from tasks.geometry.delta import Factors, LoraDelta
    >>> start = np.array([[1.0, 0.0, 0.0]])
    >>> a = LoraDelta({"layers.0.q_proj": Factors(np.array([[1.0], [0.0]]), start, 1.0)})
    >>> b = LoraDelta({"layers.0.q_proj": Factors(np.array([[3**0.5], [1.0]]), start, 1.0)})
    >>> principal_angles(a, b, side="left")["layers.0.q_proj"].round(6).tolist()
    [30.0]
    >>> principal_angles(a, b, side="right")["layers.0.q_proj"].round(6).tolist()
    [0.0]
    """
    _check_k(k)
    if side not in ("left", "right"):
        raise InputError(f"side is {side!r}; it must be 'left' or 'right'")
    angles = {}
    for name in shared(a, b):
        pair = overlap(factor(a.modules[name]), factor(b.modules[name]), side)
        angles[name] = subspace_angles(pair, min(k, pair.rank)) if pair.rank else np.empty(0)
    return angles


def _check_k(k: int) -> None:
    if k < 1:
        raise InputError(f"k is {k}; a subspace dimension is at least 1")
