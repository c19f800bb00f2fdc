from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t

from tasks.core.errors import InputError
from tasks.evaluation.intervals import paired_interval, paired_moments
from tasks.evaluation.replicates import TrainingSpread, method_interval, training_spread


def right(*marks: str) -> np.ndarray:
    return np.array([[mark == "1" for mark in one] for one in marks])


def test_the_spread_of_two_trainings_by_hand() -> None:
    # 5 problems, 4 and 1 right, 3 discordant: d = 3/5, d^2 = .36; sampling (3/5 - .36) / 4 = .06.
    found = training_spread([right("11110", "10000")])
    assert found == TrainingSpread(pytest.approx(0.18), pytest.approx((0.36 - 0.06) / 2), 1)
    # The same accuracies from other problems: 5 discordant, (1 - .36) / 4 = .16.
    other = training_spread([right("11110", "00001")])
    assert other == TrainingSpread(pytest.approx(0.18), pytest.approx((0.36 - 0.16) / 2), 1)


def test_groups_are_pooled_by_their_degrees_of_freedom() -> None:
    two, three = right("11110", "10000"), right("1100", "1100", "1111")
    # d = 0, 1/2, 1/2; discordance the same: squares 0, .25, .25, sampling 0, (.5 - .25) / 3 twice.
    seen, own = 0.5 / 3 / 2, (0.5 / 3 - 2 * 0.25 / 3 / 3) / 2
    assert seen == pytest.approx(np.var([0.5, 0.5, 1.0], ddof=1))  # half the mean of the pairs' squares
    found = training_spread([two, three, right("1010")])
    assert found is not None
    assert found.df == 3
    assert found.seen == pytest.approx((0.18 + 2 * seen) / 3)
    assert found.own == pytest.approx((0.15 + 2 * own) / 3)


def test_what_the_sample_of_problems_explains_is_no_spread_of_trainings() -> None:
    # One problem each way: d = 0, so what is left is negative before it is cut.
    found = training_spread([right("10" * 10, "01" + "10" * 9)])
    assert found == TrainingSpread(0.0, 0.0, 1)
    assert training_spread([right("10"), right("11")]) is None
    assert training_spread([]) is None
    with pytest.raises(InputError, match=r"replicates have shape \(2, 1\)"):
        training_spread([right("1", "0")])


def test_it_estimates_the_variance_of_accuracies_over_all_problems() -> None:
    """Trainings of accuracy .6 + N(0, .02^2) on a hundred problems each time: their sampling variance is six times
    that, and not in it."""
    rng = np.random.default_rng(0)
    own, seen = [], []
    for _ in range(4000):
        luck = rng.random(100)
        shares = 0.6 + rng.normal(0, 0.02, 2)
        group = np.stack([np.where(rng.random(100) < 0.3, rng.random(100), luck) < share for share in shares])
        a, b = (row.astype(float) for row in group)
        squares, discordant = float((a - b).mean()) ** 2, float((a != b).mean())
        own.append((squares - (discordant - squares) / 99) / 2)  # `training_spread` before its cut at 0
        seen.append(squares / 2)
        found = training_spread([group])
        assert found is not None
        assert (found.own, found.seen) == (pytest.approx(max(0.0, own[-1])), pytest.approx(seen[-1]))
    # Standard error of the mean: sqrt(2) times about 1.2e-3, over sqrt(4000).
    assert np.mean(own) == pytest.approx(0.02**2, abs=1.2e-4)
    assert np.mean(seen) > 2 * 0.02**2


def test_the_interval_of_methods_by_hand() -> None:
    # 20 and 10 of 98: difference .1, variance w = .31 / 100 = .0031. Two trainings of own .002, seen .003 on 4 degrees:
    # total .0071, freedom .0071^2 / (.006^2 / 4 + .0031^2 / 99) = 5.041e-5 / (9e-6 + 9.71e-8) = 5.541.
    spread = TrainingSpread(0.003, 0.002, 4)
    low, high = method_interval(20, 10, 98, 2, spread)
    assert (low + high) / 2 == pytest.approx(0.1, rel=1e-12)
    freedom = 5.041e-5 / (9e-6 + 0.0031**2 / 99)
    assert freedom == pytest.approx(5.541, abs=1e-3)
    assert (high - low) / 2 == pytest.approx(t.ppf(0.975, freedom) * 0.0071**0.5, rel=1e-9)
    # One of the two was trained: .0051, and less of it is uncertain.
    one = method_interval(20, 10, 98, 1, spread)
    freedom = 0.0051**2 / (0.003**2 / 4 + 0.0031**2 / 99)
    assert (one[1] - one[0]) / 2 == pytest.approx(t.ppf(0.975, freedom) * 0.0051**0.5, rel=1e-9)
    # Neither: the interval of the two models, with t on 99 degrees for the normal.
    assert method_interval(20, 10, 98, 0, spread) == pytest.approx(
        tuple(0.1 + sign * t.ppf(0.975, 99) * 0.0031**0.5 for sign in (-1, 1)), rel=1e-9
    )
    assert method_interval(10, 20, 98, 2, spread) == pytest.approx((-high, -low), rel=1e-12)


def test_replicates_that_agree_to_the_last_answer_leave_the_interval_of_the_models() -> None:
    same = training_spread([right("1100" * 300, "1100" * 300)])
    assert same is not None
    expected = paired_interval(25, 11, 1319)
    assert method_interval(25, 11, 1319, 2, same) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("df", "covered"), [(1, 0.90), (2, 0.93), (6, 0.94)])
@pytest.mark.parametrize("ratio", [0.0, 1.0, 8.0])
def test_it_holds_the_difference_of_two_methods_as_often_as_it_says(df: int, covered: float, ratio: float) -> None:
    """The true difference is 0; trainings vary ``ratio`` times as much as the sample of problems moves one of them."""
    rng = np.random.default_rng(1)
    variance = paired_moments(60, 60, 1319)[1]
    own = ratio * variance / 2
    held = 0
    for _ in range(2000):
        seen = (own + variance / 2) * rng.chisquare(df) / df
        low, high = method_interval(60, 60, 1319, 2, TrainingSpread(seen, max(0.0, seen - variance / 2), df))
        held += abs(rng.normal(0, (variance + 2 * own) ** 0.5)) <= (high - low) / 2
    assert held / 2000 > covered - 0.015  # two standard errors


def test_models_that_hardly_differ_are_not_lost_in_the_spread_of_others() -> None:
    """Two of 1,319 problems apart from the base, beside replicates that differ on many: never fewer degrees of freedom
    than the replicates have, so t is at most 4.30 here and not thousands."""
    spread = TrainingSpread(seen=3.5e-5, own=4e-6, df=2)
    low, high = method_interval(2, 1, 1319, 1, spread)
    _, problems = paired_moments(2, 1, 1319)
    assert (high - low) / 2 == pytest.approx(t.ppf(0.975, 2) * (problems + 4e-6) ** 0.5, rel=1e-9)
    assert -0.02 < low < high < 0.02
