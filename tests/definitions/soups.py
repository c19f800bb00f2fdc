"""What a sum or mean of updates is predicted to change, by its definition: problem by problem, in plain Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

Dense = Mapping[str, np.ndarray]


def slow_soup(updates: Sequence[Dense], weight: float) -> dict[str, np.ndarray]:
    """Module -> the dense update."""
    return {name: weight * sum(update[name] for update in updates) for name in updates[0]}  # type: ignore[misc]


def slow_accuracy(
    soup: Mapping[str, bool], base: Mapping[str, bool], parts: Sequence[Mapping[str, bool]], weight: Fraction
) -> tuple[Fraction, Fraction]:
    """Change and predicted change of the accuracy over the problems that all have."""
    common = [name for name in soup if all(name in one for one in (base, *parts))]
    change, predicted = Fraction(0), Fraction(0)
    for name in common:
        change += int(soup[name]) - int(base[name])
        predicted += weight * sum(int(part[name]) - int(base[name]) for part in parts)
    return change / len(common), predicted / len(common)


def slow_divergence(parts: Sequence[Mapping[str, float]], tokens: Mapping[str, int], weight: Fraction) -> float:
    """Predicted divergence, nats a token: weight^2 times the parts' together. ``parts``: text -> nats."""
    nats = sum(part[name] for part in parts for name in tokens)
    return float(weight**2) * nats / sum(tokens.values())
