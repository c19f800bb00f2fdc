from __future__ import annotations

import math

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from tasks.core.errors import InputError
from tasks.evaluation.intervals import holm, paired_bootstrap, paired_interval, share_interval, wilson
from tasks.evaluation.mcnemar import mcnemar


def test_wilson_by_hand() -> None:
    # 8 of 10, z = 1.959964: centre = (.8 + z^2/20) / (1 + z^2/10) = (.8 + .1920729) / 1.3841459 = .7167401,
    # half-width = z / 1.3841459 * sqrt(.8 * .2 / 10 + z^2 / 400) = 1.4160096 * sqrt(.0256036) = .2265773.
    assert wilson(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_of_newcombes_table(correct: int, n: int, low: float, high: float) -> None:
    # Newcombe 1998, Statistics in Medicine 17, 857-872, table I, method 3 (score without continuity correction).
    assert wilson(correct, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("correct", "n"), [(0, 5), (5, 5), (1, 30), (1234, 1319), (1, 1)])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_wilson_equals_statsmodels_and_mirrors(correct: int, n: int, level: float) -> None:
    low, high = wilson(correct, n, level)
    assert (low, high) == pytest.approx(proportion_confint(correct, n, 1 - level, method="wilson"), abs=1e-12)
    assert 0 <= low <= correct / n <= high <= 1
    mirrored = wilson(n - correct, n, level)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-12)


@pytest.mark.parametrize(("correct", "n"), [(1, 0), (0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_impossible_counts(correct: int, n: int) -> None:
    with pytest.raises(InputError, match=f"correct is {correct} of n = {n}"):
        wilson(correct, n)


def test_bootstrap_agrees_with_the_normal_interval_and_is_seeded() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.random((2, 2000)) < [[0.7], [0.6]]).astype(float)
    interval = paired_bootstrap(a, b, seed=1)
    half = 1.959964 * np.std(a - b) / math.sqrt(2000)
    assert interval.estimate == pytest.approx(np.mean(a) - np.mean(b), rel=1e-12)
    assert interval.low == pytest.approx(interval.estimate - half, abs=0.05 * half)
    assert interval.high == pytest.approx(interval.estimate + half, abs=0.05 * half)
    assert paired_bootstrap(a, b, seed=1) == interval
    assert paired_bootstrap(a, b, seed=2) != interval


def test_bootstrap_is_antisymmetric_and_has_no_width_without_variation() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.random((2, 50))
    there, back = paired_bootstrap(a, b, seed=5), paired_bootstrap(b, a, seed=5)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low), abs=1e-12)
    constant = paired_bootstrap(a, a - 0.25, seed=5)
    assert (constant.low, constant.high) == pytest.approx((0.25, 0.25), abs=1e-12)


def test_clusters_keep_the_samples_of_a_problem_together() -> None:
    # 100 problems x 16 identical samples carry the information of 100 answers, not of 1600.
    rng = np.random.default_rng(0)
    a, b = (rng.random((2, 100)) < 0.5).astype(float)
    problems = np.repeat([f"p{i}" for i in range(100)], 16)
    alone = paired_bootstrap(a, b, seed=1)
    clustered = paired_bootstrap(np.repeat(a, 16), np.repeat(b, 16), clusters=problems, seed=1)
    ignored = paired_bootstrap(np.repeat(a, 16), np.repeat(b, 16), seed=1)
    assert clustered.high - clustered.low == pytest.approx(alone.high - alone.low, rel=0.1)
    assert ignored.high - ignored.low == pytest.approx((alone.high - alone.low) / 4, rel=0.1)


def test_unequal_clusters_weigh_by_their_items_by_hand() -> None:
    # Problem x: differences 1, 1, 1; problem y: -1. Draws: xx (1/4) -> 1, yy (1/4) -> -1, xy (1/2) -> (3 - 1) / 4 = .5.
    scores, clusters = ([1, 1, 1, 0], [0, 0, 0, 1]), ["x", "x", "x", "y"]
    # Of (-1: .25, .5: .5, 1: .25) the quantiles .3 and .7 are both .5, and .1 and .9 are -1 and 1.
    narrow, wide = (paired_bootstrap(*scores, clusters=clusters, seed=0, level=level) for level in (0.4, 0.8))
    assert (narrow.estimate, narrow.low, narrow.high) == (0.5, 0.5, 0.5)
    assert (wide.low, wide.high) == (-1.0, 1.0)


def test_bootstrap_does_not_depend_on_how_draws_are_chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    a, b = rng.random((2, 50))
    whole = paired_bootstrap(a, b, seed=5, draws=1000)
    monkeypatch.setitem(paired_bootstrap.__globals__, "_CHUNK", 700)
    pieces = paired_bootstrap(a, b, seed=5, draws=1000)
    assert (pieces.low, pieces.high) == pytest.approx((whole.low, whole.high), rel=1e-12)


def test_bootstrap_refuses_what_does_not_pair() -> None:
    with pytest.raises(InputError, match=r"b has shape \(2,\)"):
        paired_bootstrap([1, 0, 1], [1, 0])
    with pytest.raises(InputError, match="clusters has shape"):
        paired_bootstrap([1, 0, 1], [1, 0, 0], clusters=["x"])
    with pytest.raises(InputError, match="n >= 1"):
        paired_bootstrap([], [])
    with pytest.raises(InputError, match="level is 95"):
        paired_bootstrap([1, 0], [0, 0], level=95)


def test_share_interval_is_the_bootstrap_over_problems() -> None:
    scores = np.random.default_rng(2).integers(0, 5, size=40) / 4
    found, expected = share_interval(scores, seed=7), paired_bootstrap(scores, np.zeros(40), seed=7)
    assert found == expected
    half = 1.959964 * scores.std() / math.sqrt(40)
    assert (found.low, found.high) == pytest.approx((found.estimate - half, found.estimate + half), abs=0.15 * half)


@pytest.mark.parametrize(("score", "n"), [(0.0, 30), (1.0, 30), (1.0, 1), (0.0, 1), (0.5, 12)])
def test_share_interval_of_scores_without_spread_is_wilsons(score: float, n: int) -> None:
    found = share_interval([score] * n)
    assert found.estimate == score
    assert (found.low, found.high) == pytest.approx(wilson(round(score * n), n), abs=1e-12)


def test_share_interval_refuses_what_is_no_share() -> None:
    with pytest.raises(InputError, match="n >= 1"):
        share_interval([])
    for scores in ([0.0, 2.0], [-0.5, 0.5], [0.5, math.nan]):
        with pytest.raises(InputError, match="they are shares"):
            share_interval(scores)
    with pytest.raises(InputError, match="level is 95"):
        share_interval([1.0, 1.0], level=95)


def test_holm_by_hand() -> None:
    # Sorted .01, .02, .03, .04 times 4, 3, 2, 1: .04, .06, .06, .04 -> running maximum .04, .06, .06, .06.
    assert holm([0.03, 0.01, 0.04, 0.02]).tolist() == pytest.approx([0.06, 0.04, 0.06, 0.06], rel=1e-12)
    assert holm([0.5, 0.9]).tolist() == [1.0, 1.0]
    assert holm([0.2]).tolist() == [0.2]
    assert holm([]).shape == (0,)


@pytest.mark.parametrize("m", [1, 6, 15, 45])
def test_holm_is_statsmodels(m: int) -> None:
    for p in (np.random.default_rng(m).random(m) / 10, np.random.default_rng(m).integers(0, 3, m) / 20):  # with ties
        assert holm(p).tolist() == multipletests(p, method="holm")[1].tolist()


def test_the_interval_of_paired_shares_by_hand() -> None:
    # 20 and 10 of 98: 21/100 - 11/100 = .1, half 1.96 sqrt((.32 - .01) / 100)
    low, high = paired_interval(20, 10, 98)
    assert (low + high) / 2 == pytest.approx(0.1, rel=1e-12)
    assert (high - low) / 2 == pytest.approx(1.959964 * 0.31**0.5 / 10, rel=1e-6)
    assert paired_interval(10, 20, 98) == pytest.approx((-high, -low), rel=1e-12)
    # No discordant problem: half 1.96 sqrt(2/100 / 100), not 0.
    assert paired_interval(0, 0, 98)[1] == pytest.approx(1.959964 * 0.02**0.5 / 10, rel=1e-6)


@pytest.mark.parametrize("n", [6, 30, pytest.param(200, marks=pytest.mark.slow)])
def test_the_paired_interval_leaves_out_0_where_the_exact_test_rejects(n: int) -> None:
    for fewer in range(n // 2 + 1):
        for more in range(fewer, n - fewer + 1):
            if mcnemar(more, fewer).p_value <= 0.05:
                assert paired_interval(more, fewer, n)[0] > 0, (more, fewer)


@pytest.mark.parametrize(("only_a", "only_b", "n"), [(-1, 0, 5), (0, -1, 5), (3, 3, 5), (0, 0, 0)])
def test_paired_counts_that_cannot_be_are_refused(only_a: int, only_b: int, n: int) -> None:
    with pytest.raises(InputError, match=f"discordant counts are {only_a} and {only_b} of n = {n}"):
        paired_interval(only_a, only_b, n)
