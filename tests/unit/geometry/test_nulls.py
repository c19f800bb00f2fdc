from __future__ import annotations

import numpy as np
import pytest
from scipy.special import beta
from scipy.stats import beta as beta_law
from scipy.stats import ks_2samp, kstest, ortho_group

from tasks.core.errors import InputError
from tasks.geometry.chance.nulls import (
    expected_overlap,
    expected_similarity,
    extreme_angles,
    inner_draws,
    mean_null,
    median_null,
    overlap_draws,
    percentile,
    percentile_columns,
)

SHAPES = [
    (12, 3, 3),
    (12, 4, 2),
    (12, 2, 4),
    (40, 8, 8),
    (7, 4, 3),
    (6, 4, 3),
    (6, 3, 5),
    (5, 5, 2),
    (5, 2, 5),
    (4, 4, 4),
]
DRAWS = 2000


def explicit(n: int, a: int, b: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """The definition: scipy's Haar matrices, two independent ones a draw, multiplied out."""
    first, second = (ortho_group.rvs(n, size=draws, random_state=rng) for _ in range(2))
    return first[:, :, :a].transpose(0, 2, 1) @ second[:, :, :b]


def statistics(overlaps: np.ndarray) -> dict[str, np.ndarray]:
    """Scalars that between them see signs, single entries, joint law and spectrum; rounded so that exact 1s tie."""
    cosines = np.linalg.svd(overlaps, compute_uv=False)
    first, last = overlaps[:, 0, 0], overlaps[:, -1, -1]
    named = {
        "first": first,
        "last": last,
        "first row": overlaps[:, 0].sum(axis=1),
        "minor": first * last - overlaps[:, 0, -1] * overlaps[:, -1, 0],
        "product": first * last,
        "largest cosine": cosines[:, 0],
        "smallest cosine": cosines[:, -1],
        "similarity": (overlaps**2).sum(axis=(1, 2)),
    }
    return {name: values.round(9) for name, values in named.items()}


@pytest.mark.parametrize("shape", SHAPES)
def test_overlaps_have_the_law_of_explicit_haar_frames(shape: tuple[int, int, int]) -> None:
    ours = statistics(overlap_draws(*shape, DRAWS, np.random.default_rng(1)))
    theirs = statistics(explicit(*shape, DRAWS, np.random.default_rng(2)))
    p = {name: ks_2samp(ours[name], theirs[name]).pvalue for name in ours}
    assert min(p.values()) > 0.001, p


@pytest.mark.parametrize("shape", SHAPES)
def test_subspaces_too_large_to_avoid_each_other_share_directions_exactly(shape: tuple[int, int, int]) -> None:
    n, a, b = shape
    cosines = np.linalg.svd(overlap_draws(*shape, 500, np.random.default_rng(3)), compute_uv=False)
    shared = max(0, a + b - n)
    np.testing.assert_allclose(cosines[:, :shared], 1.0, atol=1e-13)
    assert (cosines[:, shared:] < 1 - 1e-9).all()


def test_one_dimension_has_two_frames() -> None:
    draws = overlap_draws(1, 1, 1, 1000, np.random.default_rng(4)).ravel()
    assert set(draws.tolist()) == {-1.0, 1.0}
    assert abs(draws.mean()) < 4 / np.sqrt(1000)


@pytest.mark.parametrize("n", [2, 3, 10, 4096])
def test_squared_cosine_of_two_lines_is_beta(n: int) -> None:
    law = beta_law(0.5, (n - 1) / 2)
    overlaps = overlap_draws(n, min(n, 4), 2, DRAWS, np.random.default_rng(5))
    assert kstest(overlaps[:, -1, -1] ** 2, law.cdf).pvalue > 0.001
    angles = extreme_angles(overlaps, 1)
    assert kstest(np.cos(np.deg2rad(angles)) ** 2, law.cdf).pvalue > 0.001


def test_a_space_of_a_billion_dimensions_costs_no_more_and_gives_normal_overlaps() -> None:
    n = 10**9
    overlaps = overlap_draws(n, 3, 4, 1000, np.random.default_rng(6))
    assert kstest(np.sqrt(n) * overlaps[:, 1, 2], "norm").pvalue > 0.001


def test_overlaps_are_invariant_under_a_rotation_of_one_subspace_and_under_swapping() -> None:
    overlaps = overlap_draws(12, 3, 2, DRAWS, np.random.default_rng(7))
    rotation = ortho_group.rvs(3, random_state=8)
    swapped = overlap_draws(12, 2, 3, DRAWS, np.random.default_rng(9)).transpose(0, 2, 1)
    before, turned, other = (statistics(draws) for draws in (overlaps, rotation @ overlaps, swapped))
    for name in ("first", "last", "first row", "product"):
        assert ks_2samp(before[name], turned[name]).pvalue > 0.001
        assert ks_2samp(before[name], other[name]).pvalue > 0.001
    np.testing.assert_allclose(before["similarity"], turned["similarity"], atol=2e-9)


def test_one_seed_gives_one_set_of_draws() -> None:
    first, again, other = (overlap_draws(9, 3, 2, 50, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    pools = [first[:, 0, 0], first[:, 1, 1]]
    np.testing.assert_array_equal(*(median_null(pools, np.random.default_rng(3)) for _ in range(2)))


@pytest.mark.parametrize(("n", "a", "b"), [(3, 4, 1), (3, 1, 4), (3, 0, 1), (3, 1, 0)])
def test_frames_that_do_not_fit_are_refused(n: int, a: int, b: int) -> None:
    with pytest.raises(InputError, match=f"{a} and {b} columns in {n} dimensions"):
        overlap_draws(n, a, b, 10, np.random.default_rng(0))


def test_extreme_angles_of_known_overlaps() -> None:
    # Leading 2 x 2 blocks diag(1, cos 60) and diag(cos 30, cos 45): largest angles 60 and 45; for k = 1, 0 and 30.
    cosines = np.sqrt([[1.0, 0.25], [0.75, 0.5]])
    overlaps = np.zeros((2, 3, 4))
    overlaps[:, [0, 1], [0, 1]] = cosines
    overlaps[:, 0, 3] = overlaps[:, 2, 1] = 0.1  # outside the leading blocks
    np.testing.assert_allclose(extreme_angles(overlaps, 2), [45.0, 60.0], rtol=1e-14)
    np.testing.assert_allclose(extreme_angles(-overlaps, 1), [0.0, 30.0], rtol=1e-14)
    for k in (0, 4):
        with pytest.raises(InputError, match=f"k is {k}"):
            extreme_angles(overlaps, k)


@pytest.mark.parametrize(("n", "expected"), [(1, 1.0), (2, 2 / np.pi), (3, 0.5), (4, 4 / (3 * np.pi)), (5, 3 / 8)])
def test_expected_overlap_by_hand(n: int, expected: float) -> None:
    # n = 2: the mean of |cos| over a circle; n = 3: a coordinate is uniform (Archimedes); n + 2: times n / (n + 1).
    assert expected_overlap(n) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("n", [7, 128, 2560, 151936])
def test_expected_overlap_equals_the_beta_function_over_pi(n: int) -> None:
    assert expected_overlap(n) == pytest.approx(beta(n / 2, 0.5) / np.pi, rel=1e-9)


@pytest.mark.parametrize(("n", "k"), [(2, 1), (3, 2), (9, 4), (40, 3), (2560, 10)])
def test_expectations_are_those_of_the_draws(n: int, k: int) -> None:
    overlaps = overlap_draws(n, k, k, DRAWS, np.random.default_rng(10))
    first, similarity = np.abs(overlaps[:, 0, 0]), (overlaps**2).sum(axis=(1, 2)) / k
    for draws, expected in ((first, expected_overlap(n)), (similarity, expected_similarity(n, k))):
        assert abs(draws.mean() - expected) < 4 * draws.std() / np.sqrt(DRAWS)


def test_expected_similarity_by_hand_and_refusals() -> None:
    assert expected_similarity(2560, 10) == 1 / 256
    assert expected_similarity(8, 8) == 1.0
    with pytest.raises(InputError, match="k is 9"):
        expected_similarity(8, 9)
    with pytest.raises(InputError, match="n is 0"):
        expected_overlap(0)


def test_inner_draws_equal_the_dense_inner_products() -> None:
    rng = np.random.default_rng(11)
    out, width, r, spectra = 9, 7, 4, np.array([[3.0, 2.0, 1.0, 0.5], [5.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]])
    u, u_other = ortho_group.rvs(out, size=2, random_state=rng)[:, :, :r]
    v, v_other = ortho_group.rvs(width, size=2, random_state=rng)[:, :, :r]
    inner = inner_draws(((u.T @ u_other) * (v.T @ v_other))[None], spectra)
    assert inner.shape == (1, 3, 3)
    for i, s in enumerate(spectra):
        for j, other in enumerate(spectra):
            dense = np.sum((u * s @ v.T) * (u_other * other @ v_other.T))
            assert inner[0, i, j] == pytest.approx(dense, abs=1e-13)


def test_variance_of_a_random_cosine_is_one_over_the_number_of_entries_whatever_the_spectrum() -> None:
    out, width, draws = 7, 5, 20_000
    rng = np.random.default_rng(12)
    overlaps = [overlap_draws(n, 3, 3, draws, rng) for n in (out, width)]
    s = np.array([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0], [5.0, 2.0, 0.1]])
    s /= np.linalg.norm(s, axis=1, keepdims=True)
    cosines = inner_draws(overlaps[0] * overlaps[1], s)
    for i in range(3):
        for j in range(3):
            scaled = cosines[:, i, j] * np.sqrt(out * width)
            assert abs(scaled.mean()) < 4 / np.sqrt(draws)
            assert abs((scaled**2).mean() - 1.0) < 4 * (scaled**2).std() / np.sqrt(draws)


def test_inner_draws_refuse_unequal_ranks() -> None:
    square = np.zeros((5, 3, 3))
    for products, s in ((square[:, :2], np.ones((2, 3))), (square, np.ones((2, 2))), (square, np.ones(3))):
        with pytest.raises(InputError, match="need one r for all"):
            inner_draws(products, s)


def test_percentile_by_hand() -> None:
    # Of the draws 1, 2, 2, 3 one is below 2 and two are equal to it: (1 + 2 / 2) / 4 = 50 %.
    values = np.array([[0.0, 1.0, 2.0, 2.5], [3.0, 4.0, np.nan, -np.inf]])
    expected = np.array([[0.0, 12.5, 50.0, 75.0], [87.5, 100.0, np.nan, 0.0]])
    null = np.array([1.0, 2.0, 2.0, 3.0])
    np.testing.assert_array_equal(percentile(values, null), expected)
    np.testing.assert_array_equal(percentile(np.exp(values), np.exp(null)), expected)  # ranks only
    assert percentile(2.0, null) == 50.0
    assert percentile(0.5, null) == 0.0
    assert percentile(0.5, null, tie=0.6) == 12.5


def test_percentile_columns_give_each_value_its_own_null() -> None:
    draws = np.random.default_rng(13).integers(0, 5, size=(20, 6)).astype(float)
    values = np.array([0.0, 1.0, 2.5, 4.0, np.nan, 3.0])
    expected = [percentile(value, np.sort(draws[:, p])) for p, value in enumerate(values)]
    np.testing.assert_allclose(percentile_columns(values, draws), expected, rtol=1e-14)
    draws[3, 5] = np.nan
    assert np.isnan(percentile_columns(values, draws)[5])


def test_percentiles_refuse_a_null_that_is_none() -> None:
    for null in (np.empty(0), np.array([1.0, np.nan]), np.zeros((2, 2))):
        with pytest.raises(InputError, match="a null of shape"):
            percentile(1.0, null)
    for draws in (np.zeros((0, 2)), np.zeros((5, 3)), np.zeros(2)):
        with pytest.raises(InputError, match="need \\(P,\\) and \\(D, P\\)"):
            percentile_columns(np.zeros(2), draws)


def test_null_of_a_median_and_of_a_mean_by_hand() -> None:
    pools = [np.full(4, value) for value in (9.0, 1.0, 2.0)]
    np.testing.assert_array_equal(median_null(pools, np.random.default_rng(0)), [2.0] * 4)
    np.testing.assert_array_equal(mean_null(pools, np.random.default_rng(0)), [4.0] * 4)
    for bad in ([], [np.zeros(3), np.zeros(4)], [np.zeros((2, 2))]):
        with pytest.raises(InputError, match="null pools"):
            median_null(bad, np.random.default_rng(0))


def test_null_over_modules_that_share_a_pool_is_that_of_independent_draws() -> None:
    rng = np.random.default_rng(14)
    pool = np.sort(rng.exponential(size=DRAWS))
    kept = pool.copy()
    fresh = rng.exponential(size=(5, DRAWS))
    for null, statistic in ((median_null, np.median), (mean_null, np.mean)):
        draws = null([pool] * 5, rng)
        assert (np.diff(draws) >= 0).all()
        assert ks_2samp(draws, statistic(fresh, axis=0)).pvalue > 0.001
    np.testing.assert_array_equal(pool, kept)  # the caller's pool is left as it was
