"""How far an update moves the singular values of the base weight."""

from __future__ import annotations

import math

import numpy as np

from tasks.geometry.delta import Array


def spectrum_shift(base: Array, moved: Array) -> float:
    """``|s(W0 + dW) - s(W0)|_2 / |s(W0)|_2``: all singular values, (n,) each, both descending.

    At most ``|dW|_F / |W0|_F`` (Mirsky 1960), equal where dW only scales W0's own directions. NaN for a zero base.
    """
    size = float(np.linalg.norm(base))
    return float(np.linalg.norm(moved - base)) / size if size > 0 else math.nan
