"""Which entries of a weight an update really changes once the merged weight is stored in bfloat16."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tasks.geometry.delta import Array

TOLERANCE = 1e-3
"""Relative change up to which an entry counts as unchanged: below bfloat16's finest step of 2^-8 = 3.9e-3."""


def update_sparsity(base: Array, moved: Array, tolerance: float = TOLERANCE) -> float:
    """Share of entries with ``|w' - w| <= tolerance * max(|w|, |w'|)``, w and w' rounded to bfloat16: 0 to 1.

    ``base`` and ``moved`` are W0 and W0 + dW (the MERGED weight), of one shape. Two zeros count as unchanged. As
    neighbouring bfloat16 numbers differ by more than the default tolerance, it asks whether the rounded entries are
    equal (but for subnormal numbers). NaN for an empty weight.
    """
    return float(np.mean(unchanged(base, moved, tolerance))) if base.size else float("nan")


def unchanged(base: Array, moved: Array, tolerance: float = TOLERANCE) -> NDArray[np.bool_]:
    """Which entries those are, of the same shape."""
    w, w_moved = bfloat16(base), bfloat16(moved)
    bound = tolerance * np.maximum(np.abs(w), np.abs(w_moved))
    # An entry that became infinite moved: infinity is not within a share of itself.
    return np.asarray((np.abs(w_moved - w) <= bound) & np.isfinite(w_moved))


def bfloat16(values: Array) -> NDArray[np.float64]:
    """``values`` rounded to bfloat16 by way of float32, each to nearest, ties to even; as float64. Finite input only.

    By way of float32, because that is how a float64 or float32 weight becomes bfloat16 in torch.
    """
    with np.errstate(over="ignore"):  # beyond the largest float32: infinite, as in torch
        bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    # Half of the last place that stays, less one where that place is even: the carry then rounds ties to even.
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32).astype(np.float64)
