"""How far an update turns the principal subspaces of the base weight."""

from __future__ import annotations

from tasks.geometry.angles import Overlap, subspace_angles


def rotation(pair: Overlap, k: int) -> float:
    """Largest principal angle in degrees, 0 to 90, between the top-k singular subspaces of W0 and W0 + dW.

    Stable for small angles (see `subspace_angles`), which most are. Not defined by the weights where the k-th and the
    (k+1)-th singular value of either are equal: any basis of their common space is then as good. Bounded by Wedin:
    sin(angle) <= |dW|_2 / gap, the gap between the k-th value of one weight and the (k+1)-th of the other.
    """
    return float(subspace_angles(pair, k)[-1])
