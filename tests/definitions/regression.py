"""Least squares by the normal equations, in plain Python."""

from __future__ import annotations

import math
from collections.abc import Sequence


def slow_line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Slope and Pearson's correlation."""
    n, mean_x, mean_y = len(x), math.fsum(x) / len(x), math.fsum(y) / len(y)
    xy = math.fsum((x[i] - mean_x) * (y[i] - mean_y) for i in range(n))
    xx, yy = math.fsum((one - mean_x) ** 2 for one in x), math.fsum((one - mean_y) ** 2 for one in y)
    return xy / xx, xy / math.sqrt(xx * yy)
