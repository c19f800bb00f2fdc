from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from tasks.core.errors import InputError
from tasks.geometry.chance.bootstrap import cluster_counts, cluster_members, interval, weighted_mean, weighted_median

Statistic = Callable[..., np.ndarray]

LAYERS = [0, 0, 1, 1, 1, 2, None, None, 2, 3]
STATISTICS = [(weighted_median, np.median), (weighted_mean, np.mean)]


def naive(statistic: Statistic, values: np.ndarray, counts: Sequence | np.ndarray) -> np.ndarray:
    """The definition: every value repeated as often as it was drawn, NaN left out."""
    out = np.full((len(values), len(counts)), np.nan)
    for p, row in enumerate(values):
        for r, count in enumerate(counts):
            multiset = np.repeat(row, count)
            multiset = multiset[~np.isnan(multiset)]
            if multiset.size:
                out[p, r] = statistic(multiset)
    return out


@pytest.fixture
def values() -> np.ndarray:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((12, len(LAYERS)))
    values[:4] = values[:4].round()  # ties
    values[2:9][rng.random((7, len(LAYERS))) < 0.4] = np.nan
    values[9, 1:] = np.nan
    values[10] = np.nan
    return values


def test_modules_of_a_layer_are_drawn_together_and_those_of_none_alone() -> None:
    counts = cluster_counts(LAYERS, 500, np.random.default_rng(1))
    assert counts.shape == (500, 10)
    first = [0, 2, 5, 6, 7, 9]  # one module of each of the six clusters
    for together in ([0, 1], [2, 3, 4], [5, 8]):
        assert (counts[:, together] == counts[:, together[:1]]).all()
    assert (counts[:, first].sum(axis=1) == 6).all()
    assert (counts[:, 6] != counts[:, 7]).any()


def test_counts_have_the_multinomial_moments() -> None:
    # 6 draws from 6 clusters: mean 6 / 6, variance 6 * 1/6 * 5/6, covariance -6 / 36.
    counts = cluster_counts(list("abcdef"), 20_000, np.random.default_rng(2))
    moments = np.cov(counts.T)
    np.testing.assert_allclose(counts.mean(axis=0), 1.0, atol=4 * np.sqrt(5 / 6 / 20_000))
    np.testing.assert_allclose(moments, np.eye(6) - 1 / 6, atol=0.04)  # 4 standard errors of a variance


def test_counts_depend_on_the_seed_and_the_partition_only() -> None:
    first = cluster_counts(LAYERS, 50, np.random.default_rng(3))
    renamed = [None if layer is None else f"layer {layer}" for layer in LAYERS]
    np.testing.assert_array_equal(first, cluster_counts(renamed, 50, np.random.default_rng(3)))
    assert not np.array_equal(first, cluster_counts(LAYERS, 50, np.random.default_rng(4)))


def test_nothing_to_draw_is_refused() -> None:
    for clusters, replicates in (([], 10), ([1, 2], 0)):
        with pytest.raises(InputError, match="need at least 1 of each"):
            cluster_counts(clusters, replicates, np.random.default_rng(0))


def test_modules_of_a_cluster_are_its_members_and_those_of_no_layer_are_alone() -> None:
    members = cluster_members(LAYERS)
    assert [np.flatnonzero(row).tolist() for row in members] == [[0, 1], [2, 3, 4], [5, 8], [6], [7], [9]]
    assert set(members.ravel()) == {0, 1}


def test_weighted_median_and_mean_by_hand() -> None:
    values = np.array([[10.0, 1.0, 2.0], [10.0, np.nan, 2.0]])
    counts = np.array([[1, 1, 1], [0, 2, 0], [1, 1, 0], [1, 0, 3], [0, 0, 0], [2, 5, 2]])
    medians = [[2.0, 1.0, 5.5, 2.0, np.nan, 1.0], [6.0, np.nan, 10.0, 2.0, np.nan, 6.0]]
    means = [[13 / 3, 1.0, 5.5, 4.0, np.nan, 29 / 9], [6.0, np.nan, 10.0, 4.0, np.nan, 6.0]]
    np.testing.assert_array_equal(weighted_median(values, counts), medians)
    np.testing.assert_allclose(weighted_mean(values, counts), means, rtol=1e-15)


@pytest.mark.parametrize(("ours", "statistic"), STATISTICS)
@pytest.mark.parametrize("scale", [1, 100, 20_000])  # totals beyond 8 and beyond 16 bits
def test_statistics_equal_those_of_the_repeated_values(
    ours: Statistic, statistic: Statistic, scale: int, values: np.ndarray
) -> None:
    counts = scale * cluster_counts(LAYERS, 40, np.random.default_rng(5))
    counts[1] = 0
    counts[2:6] += np.random.default_rng(6).integers(0, 3, size=(4, len(LAYERS)))
    np.testing.assert_allclose(ours(values, counts), naive(statistic, values, counts), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("ours", "statistic"), STATISTICS)
def test_statistics_do_not_depend_on_the_order_of_modules_and_follow_shifts(
    ours: Statistic, statistic: Statistic, values: np.ndarray
) -> None:
    counts = cluster_counts(LAYERS, 40, np.random.default_rng(7))
    order = np.random.default_rng(8).permutation(len(LAYERS))
    expected = ours(values, counts)
    np.testing.assert_allclose(ours(values[:, order], counts[:, order]), expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(ours(3 - 2 * values, counts), 3 - 2 * expected, rtol=1e-12, atol=1e-13)
    # Every module once: the plain statistic of the row.
    once = ours(values, np.ones((1, len(LAYERS)), dtype=np.int64))
    np.testing.assert_allclose(once, naive(statistic, values, [1]), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("ours", [weighted_median, weighted_mean])
def test_shapes_that_do_not_fit_are_refused(ours: Statistic) -> None:
    for values, counts in ((np.zeros((2, 3)), np.ones((5, 4), int)), (np.zeros(3), np.ones((5, 3), int))):
        with pytest.raises(InputError, match="need \\(P, N\\) and \\(R, N\\)"):
            ours(values, counts)


def test_interval_by_hand() -> None:
    draws = np.random.default_rng(9).permuted(np.tile(np.arange(101.0), (4, 1)), axis=1)
    draws[1][draws[1] > 40] = np.nan  # 0 .. 40 are left: 2.5 % is 1, 97.5 % is 39
    draws[2] = np.nan
    low, high = interval(draws)
    np.testing.assert_allclose(low, [2.5, 1.0, np.nan, 2.5], rtol=1e-14)
    np.testing.assert_allclose(high, [97.5, 39.0, np.nan, 97.5], rtol=1e-14)
    assert np.isnan(interval(draws, clusters=1)).all()
    low, high = interval(draws, level=0.5, clusters=2)
    np.testing.assert_allclose(low, [25.0, 10.0, np.nan, 25.0], rtol=1e-14)
    np.testing.assert_allclose(high, [75.0, 30.0, np.nan, 75.0], rtol=1e-14)
    for level in (0.0, 1.0):
        with pytest.raises(InputError, match="level is"):
            interval(draws, level=level)


@pytest.mark.parametrize("ours", [weighted_median, weighted_mean])
def test_coverage_needs_the_clusters(ours: Statistic) -> None:
    # 36 layers of 4 modules, as in a model of 36 layers: a layer's effect (sd 1) and a module's own (sd .5), true
    # centre 0. Intervals of 600 such pairs should hold 0 in 95 % of them; those that ignore the layers are too narrow.
    rng = np.random.default_rng(10)
    layers = np.repeat(np.arange(36), 4)
    values = rng.standard_normal((600, 36))[:, layers] + 0.5 * rng.standard_normal((600, 144))
    coverage = {}
    for name, clusters in (("clustered", layers.tolist()), ("unclustered", [None] * 144)):
        low, high = interval(ours(values, cluster_counts(clusters, 600, rng)))
        coverage[name] = np.mean((low <= 0) & (high >= 0))
    assert 0.88 <= coverage["clustered"] <= 0.98, coverage
    assert coverage["unclustered"] < coverage["clustered"] - 0.12, coverage
