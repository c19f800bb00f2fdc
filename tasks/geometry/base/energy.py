"""Where in the base weight an update has its energy: in the base's leading directions, and on its smallest entries."""

from __future__ import annotations

import math

import numpy as np

from tasks.geometry.delta import Array

SMALLEST = 0.1
"""Share of a weight's entries that are its smallest ones."""


def principal_energy(update: Array, left: Array, right: Array) -> float:
    """``|U^T dW V|_F^2 / |dW|_F^2`` over what chance gives it, ``k l / (out in)``; 1 for an update in any direction.

    ``update`` (out, in), ``left`` (out, k) and ``right`` (in, l) with orthonormal columns. The question of arXiv
    2511.08567, whether training stays off the base's principal directions. NaN for a zero update.
    """
    whole = float(np.sum(update**2))
    chance = left.shape[1] * right.shape[1] / update.size
    return float(np.sum((left.T @ update @ right) ** 2)) / whole / chance if whole > 0 else math.nan


def small_energy(update: Array, weight: Array, share: float = SMALLEST) -> float:
    """The share of ``|dW|_F^2`` on the entries where ``|weight|`` is smallest, over their ``share`` of all entries.

    Where entries at the edge are equal in size, as weights stored in 16 bits often are, each of them counts in part.
    NaN for a zero update.
    """
    size, square = np.abs(weight).ravel(), (update**2).ravel()
    whole, count = float(np.sum(square)), share * size.size
    if whole <= 0:
        return math.nan
    place = min(max(math.ceil(count) - 1, 0), size.size - 1)
    edge = np.partition(size, place)[place]
    below, at = size < edge, size == edge
    part = (count - np.count_nonzero(below)) / np.count_nonzero(at)
    return float(np.sum(square[below]) + part * np.sum(square[at])) / whole / share
