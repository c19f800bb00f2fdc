"""Barriers by hand, the interval against what it promises, and the frames."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

from tasks.core.errors import InputError
from tasks.core.frames import BARRIERS, CONNECTIVITY
from tasks.geometry.connectivity import (
    PATH_ITEMS,
    barrier,
    barrier_frame,
    barrier_interval,
    connectivity_frame,
    matched_scales,
    where,
)

TENTHS = [i / 10 for i in range(11)]


def test_a_barrier_by_hand() -> None:
    """Chord at .25, .5, .75: 2, 3, 4. Losses 2.5, 5, 4.25 lie .5, 2, .25 above it."""
    alphas, losses = [0, 0.25, 0.5, 0.75, 1], [1, 2.5, 5, 4.25, 5]
    assert barrier(alphas, losses) == 2.0
    assert where(alphas, losses) == 0.5


def test_the_quadratic_between_two_of_its_own_minima() -> None:
    """L(w) = (w^2 - 1)^2 from -1 to 1: both ends 0, and 1 at the middle, where w = 0."""
    w = 2 * np.array(TENTHS) - 1
    assert barrier(TENTHS, (w**2 - 1) ** 2) == pytest.approx(1.0, abs=1e-15)
    assert where(TENTHS, (w**2 - 1) ** 2) == 0.5


def test_a_convex_path_has_none() -> None:
    """L(w) = (w - .3)^2 lies below every chord of it."""
    losses = (np.array(TENTHS) - 0.3) ** 2
    assert barrier(TENTHS, losses) == 0.0
    assert math.isnan(where(TENTHS, losses))


@pytest.mark.parametrize(("first", "last"), [(0.1, 0.7), (1e6 / 3, 2e6 / 7), (-3.3, 1e-9), (0.0, 0.0)])
def test_a_straight_path_has_none_in_spite_of_rounding(first: float, last: float) -> None:
    alphas = np.linspace(0, 1, 101)
    losses = first + alphas * (last - first)
    assert barrier(alphas, losses) == 0.0
    assert math.isnan(where(alphas, losses))


def test_order_and_direction_of_the_points_do_not_matter_and_units_carry_over() -> None:
    rng = np.random.default_rng(0)
    alphas, losses = np.array(TENTHS), rng.uniform(1, 3, 11)
    shuffled = rng.permutation(11)
    found = barrier(alphas, losses)
    assert found > 0.1
    assert barrier(alphas[shuffled], losses[shuffled]) == found
    assert barrier(1 - alphas, losses) == pytest.approx(found, rel=1e-14)
    assert where(1 - alphas, losses) == pytest.approx(1 - where(alphas, losses), rel=1e-14)
    line = 7 - 5 * alphas  # adding a straight line to a path moves its chord along
    assert barrier(alphas, 3 * losses + line) == pytest.approx(3 * found, rel=1e-13)


def test_losses_that_are_not_numbers() -> None:
    alphas = [0, 0.5, 1]
    for losses in ([math.nan, 1, 1], [1, math.nan, 1], [1, 1, math.nan], [math.inf, 1, 1], [1, 1, math.inf]):
        assert math.isnan(barrier(alphas, losses))
        assert math.isnan(where(alphas, losses))
    assert barrier(alphas, [1, math.inf, 1]) == math.inf
    assert where(alphas, [1, math.inf, 1]) == 0.5


@pytest.mark.parametrize(
    "alphas", [[0, 0.5], [0.5, 1], [0, 0.5, 0.5, 1], [-0.1, 0, 1], [0, 1, 1.1], [0, math.nan, 1], []]
)
def test_refused_alphas(alphas: list[float]) -> None:
    with pytest.raises(InputError, match="alphas: need different numbers from 0 to 1"):
        barrier(alphas, np.ones(len(alphas)))


def test_refused_shapes() -> None:
    with pytest.raises(InputError, match="one loss for each alpha"):
        barrier([0, 1], [1, 2, 3])
    with pytest.raises(InputError, match="at least one problem"):
        barrier_interval([0, 1], np.ones((2, 0)), None, np.random.default_rng(0))
    with pytest.raises(InputError, match="weights"):
        barrier_interval([0, 1], np.ones((2, 3)), [1, 0, 1], np.random.default_rng(0))
    with pytest.raises(InputError, match="level"):
        barrier_interval([0, 1], np.ones((2, 3)), None, np.random.default_rng(0), level=1.0)


def test_matched_scales_by_hand() -> None:
    """Norms 2 and 8: both become sqrt(16) = 4."""
    assert matched_scales(2, 8) == (2.0, 0.5)
    assert matched_scales(8, 2) == (0.5, 2.0)
    assert matched_scales(3, 3) == (1.0, 1.0)
    a, b = matched_scales(1e-200, 1e200)
    assert (a * 1e-200, b * 1e200) == pytest.approx((1.0, 1.0), rel=1e-12)
    for norms in ((0, 1), (1, 0), (math.inf, 1), (1, math.nan)):
        assert all(math.isnan(scale) for scale in matched_scales(*norms))


def test_pooled_losses_are_per_token() -> None:
    """Two problems of 1 and 3 tokens: (1 + 3) / 4 = 1 at the ends, (2 + 12) / 4 = 3.5 at the middle."""
    values = [[1, 3], [2, 12], [1, 3]]
    assert barrier_interval([0, 0.5, 1], values, [1, 3], np.random.default_rng(0)).barrier == 2.5
    assert barrier_interval([0, 0.5, 1], values, None, np.random.default_rng(0)).barrier == 5.0


def test_a_barrier_that_every_problem_has_is_certain() -> None:
    values = np.array([[0.0, 2.0, 4.0], [1.0, 3.0, 5.0], [0.0, 2.0, 4.0]])  # 1 above the chord in each problem
    assert barrier_interval([0, 0.5, 1], values, None, np.random.default_rng(0)) == (1.0, 1.0, 1.0)


def test_so_is_one_that_every_token_has_however_long_the_texts() -> None:
    """1 nat a token at the ends and 2 in the middle, whichever problems are drawn: their tokens are drawn with them."""
    tokens = np.array([1.0, 2.0, 16.0])
    found = barrier_interval([0, 0.5, 1], [tokens, 2 * tokens, tokens], tokens, np.random.default_rng(0))
    assert found == (1.0, 1.0, 1.0)


def test_one_problem_has_no_interval() -> None:
    found = barrier_interval([0, 0.5, 1], [[0], [1], [0]], None, np.random.default_rng(0))
    assert found.barrier == 1.0
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_one_point_between_has_the_normal_interval() -> None:
    """With one height the band is mean +- 1.96 standard errors: problems 0 and 2 in equal numbers, 400 in all, give
    1 +- 1.96 * 1 / 20."""
    middle = np.tile([0.0, 2.0], 200)
    found = barrier_interval([0, 0.5, 1], [0 * middle, middle, 0 * middle], None, np.random.default_rng(0), 20_000)
    assert found.barrier == 1.0
    assert (found.low, found.high) == pytest.approx((1 - 0.098, 1 + 0.098), abs=0.003)


def noisy_path(rng: np.random.Generator, height: float, problems: int = 60) -> np.ndarray:
    """(11, P) a path whose true heights are ``height`` at every inner point, with noise of its own at each."""
    inner = np.array([0.0, *np.full(9, height), 0.0])[:, None]
    return inner + rng.standard_normal((11, problems)) * np.array([0, *np.ones(9), 0])[:, None]


@pytest.mark.parametrize("height", [0.0, 0.3])
def test_the_interval_holds_the_true_barrier_as_often_as_it_says(height: float) -> None:
    """200 noisy paths: the maximum itself is biased (by over a standard error, 1 / sqrt(60) = .129), the interval holds
    the truth in 95 % of them or more; 91 % is 2.6 standard deviations below that."""
    rng = np.random.default_rng(1)
    found = [barrier_interval(TENTHS, noisy_path(rng, height), None, rng, 400) for _ in range(200)]
    assert np.mean([one.barrier for one in found]) - height > 0.129
    assert np.mean([one.low <= height <= one.high for one in found]) >= 0.91
    assert all(one.low <= one.barrier <= one.high for one in found)


def test_the_percentile_bootstrap_would_find_barriers_that_are_not_there() -> None:
    """Why the band: on flat paths the bootstrap's own 2.5 % quantile of the maximum is above 0 nearly always."""
    rng = np.random.default_rng(2)
    naive = []
    for _ in range(50):
        values = noisy_path(rng, 0.0)
        draws = [barrier(TENTHS, values[:, rng.integers(60, size=60)].mean(axis=1)) for _ in range(100)]
        naive.append(np.quantile(draws, 0.025) > 0)
    assert np.mean(naive) > 0.8


def items() -> pl.DataFrame:
    """Two problems of 1 and 3 tokens, scored at 0, .5, 1; both right at the ends and one of them in the middle."""
    rows = [
        (False, alpha, problem, "boxed", value, tokens)
        for alpha, values in ((0.0, (1.0, 3.0)), (0.5, (2.0, 12.0)), (1.0, (1.0, 3.0)))
        for problem, value, tokens in zip("pq", values, (1, 3), strict=True)
    ]
    rows += [
        (False, alpha, problem, "accuracy", value, None)
        for alpha, values in ((0.0, (1.0, 1.0)), (0.5, (0.0, 1.0)), (1.0, (1.0, 1.0)))
        for problem, value in zip("pq", values, strict=True)
    ]
    return pl.DataFrame(rows, schema=PATH_ITEMS, orient="row")


def test_the_frames_by_hand() -> None:
    frame = connectivity_frame(items().sample(fraction=1, shuffle=True, seed=3), "sft", "dpo").sort("reading", "alpha")
    assert frame.schema == CONNECTIVITY
    assert frame.rows() == [
        ("sft", "dpo", False, "accuracy", 0.0, 1.0, 2, None),
        ("sft", "dpo", False, "accuracy", 0.5, 0.5, 2, None),
        ("sft", "dpo", False, "accuracy", 1.0, 1.0, 2, None),
        ("sft", "dpo", False, "boxed", 0.0, 1.0, 2, 4),
        ("sft", "dpo", False, "boxed", 0.5, 3.5, 2, 4),
        ("sft", "dpo", False, "boxed", 1.0, 1.0, 2, 4),
    ]
    found = barrier_frame(items(), "sft", "dpo").sort("reading")
    assert found.schema == BARRIERS
    assert found.drop("low", "high").rows() == [
        ("sft", "dpo", False, "accuracy", 0.5, 0.5, 2),
        ("sft", "dpo", False, "boxed", 2.5, 0.5, 2),
    ]


def test_a_path_without_a_barrier_has_no_alpha_and_one_without_an_end_is_named() -> None:
    boxed = items().filter(reading="boxed")
    flat = boxed.with_columns(value=pl.col("tokens").cast(pl.Float64))
    assert barrier_frame(flat, "sft", "dpo").select("barrier", "alpha").rows() == [(0.0, None)]
    unknown = boxed.with_columns(value=pl.lit(None, pl.Float64))
    assert barrier_frame(unknown, "sft", "dpo").select("barrier", "alpha").rows() == [(None, None)]
    with pytest.raises(InputError, match=r"sft~dpo \(boxed\): alphas"):
        barrier_frame(boxed.filter(pl.col("alpha") > 0), "sft", "dpo")


def test_intervals_of_items_are_those_of_their_arrays() -> None:
    shuffled = items().sample(fraction=1, shuffle=True, seed=3)
    found = {row["reading"]: row for row in barrier_frame(shuffled, "a", "b", seed=5).rows(named=True)}
    expected = barrier_interval([0, 0.5, 1], [[1, 3], [2, 12], [1, 3]], [1, 3], np.random.default_rng(5))
    assert tuple(found["boxed"][name] for name in expected._fields) == expected
    errors = barrier_interval([0, 0.5, 1], [[0, 0], [1, 0], [0, 0]], None, np.random.default_rng(5))
    assert tuple(found["accuracy"][name] for name in errors._fields) == errors
    assert found["accuracy"]["n"] == 2
    with pytest.raises(InputError, match="lack a point"):
        barrier_frame(items()[1:], "a", "b", seed=5)
