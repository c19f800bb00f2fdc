"""Two formulas of chance that several rooms need: Student's t, and how much random directions agree."""

from __future__ import annotations

import math
from typing import Any


def student(freedom: Any, level: float = 0.95) -> Any:
    """Student's t at which a two-sided interval of ``level`` ends; ``freedom``: degrees of it, a number or an array."""
    # Imported here: scipy takes long to load, and flows import what imports this module.
    from scipy.special import stdtrit

    return stdtrit(freedom, (1 + level) / 2)


def mean_overlap(dimensions: int) -> float:
    """``E |<u, u'>|`` of two independent uniform unit vectors of R^n: ``Gamma(n/2) / (sqrt(pi) Gamma((n+1)/2))``.

    ``<u, u'>^2`` is Beta(1/2, (n-1)/2); this is the mean of its root. About ``sqrt(2 / (pi n))`` for large n.
    """
    return math.exp(math.lgamma(dimensions / 2) - math.lgamma((dimensions + 1) / 2)) / math.sqrt(math.pi)
