"""t intervals over few layers: by hand, and how often they hold the truth beside how often a bootstrap does."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.core.errors import InputError
from tasks.geometry.chance.bootstrap import cluster_counts, cluster_members, interval
from tasks.geometry.chance.few_layers import pseudo_values, t_interval
from tasks.geometry.updates.metrics import PAIR_METRICS

ROWS, EACH = 4000, 4
"""Simulated pairs, and modules of a layer."""


def simulated(layers: int, rng: np.random.Generator) -> np.ndarray:
    """(ROWS, layers * EACH): a layer's effect (sd 1) and a module's own (sd .5) around 0, as in test_bootstrap."""
    effects = rng.standard_normal((ROWS, layers))
    return np.repeat(effects, EACH, axis=1) + 0.5 * rng.standard_normal((ROWS, layers * EACH))


@pytest.mark.parametrize("layers", [3, 6])
@pytest.mark.parametrize("metric", ["u1_overlap", "angle_left", "cosine"])  # a mean, a median, a ratio of sums
def test_coverage_with_few_layers(metric: str, layers: int) -> None:
    rng = np.random.default_rng(layers)
    values = simulated(layers, rng)
    parts, truth = {}, 0.0
    if metric == "cosine":  # of layers whose norms differ as well; E inner / E squared is .5
        squared = np.exp(0.5 * np.repeat(rng.standard_normal((ROWS, layers)), EACH, axis=1))
        parts, truth = {"inner": (0.5 + 0.1 * values) * squared, "squared_a": squared, "squared_b": squared}, 0.5
    kind = PAIR_METRICS[metric]
    members = cluster_members(np.repeat(np.arange(layers), EACH).tolist())
    value = kind.overall(parts, values, np.ones((1, layers * EACH), dtype=np.int64))[:, 0]
    numbers = kind.overall(parts, values, members if kind.is_median else 1 - members)
    found = t_interval(value, numbers if kind.is_median else pseudo_values(value, numbers))
    counts = cluster_counts(np.repeat(np.arange(layers), EACH).tolist(), 400, rng)
    drawn = interval(kind.overall(parts, values, counts))
    ours, resampled = (np.mean((low <= truth) & (truth <= high)) for low, high in (found, drawn))
    assert 0.92 <= ours <= 0.98, (ours, resampled)
    assert resampled < (0.82 if layers == 3 else 0.9), (ours, resampled)


def test_the_pseudo_value_of_a_mean_is_the_layers_own() -> None:
    numbers = np.array([[1.0, 2.0, 6.0], [1.0, np.nan, 6.0]])
    without = np.array([[4.0, 3.5, 1.5], [6.0, np.nan, 1.0]])  # the second pair has no value in the second layer
    np.testing.assert_allclose(pseudo_values(np.array([3.0, 3.5]), without), numbers, rtol=1e-15)


def test_t_interval_by_hand() -> None:
    # 1, 2, 6: sd sqrt(7), t(2) = 4.3026527; 1 and 6: sd sqrt(12.5), t(1) = 12.7062047.
    layers = np.array([[1.0, 2.0, 6.0], [1.0, np.nan, 6.0], [np.nan, 2.0, np.nan], [np.nan] * 3, [2.0] * 3])
    value = np.array([3.0, 3.5, 2.0, np.nan, 2.0])
    half = [4.302652729749464 * np.sqrt(7 / 3), 12.706204736174694 * 2.5, np.nan, np.nan, 0.0]
    low, high = t_interval(value, layers)
    np.testing.assert_allclose(low, value - half, rtol=1e-12)
    np.testing.assert_allclose(high, value + half, rtol=1e-12)
    cut = t_interval(value, layers, (0.0, 5.0))
    np.testing.assert_allclose(cut, [[0.0, 0.0, np.nan, np.nan, 2.0], [5.0, 5.0, np.nan, np.nan, 2.0]])
    for level in (0.0, 1.0):
        with pytest.raises(InputError, match="level is"):
            t_interval(value, layers, level=level)
