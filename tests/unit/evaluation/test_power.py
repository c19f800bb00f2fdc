from __future__ import annotations

import math
from fractions import Fraction
from itertools import product

import pytest
from scipy.stats import norm

from tasks.core.errors import InputError
from tasks.core.results import DIFFERS, DIFFERS_LITTLE, EFFECT, EQUAL, NO_POWER
from tasks.evaluation.intervals import paired_interval
from tasks.evaluation.mcnemar import mcnemar
from tasks.evaluation.power import detectable_difference, exact_power, smallest_significant, verdict


def brute_power(n: int, only_a: Fraction, only_b: Fraction, alpha: float) -> Fraction:
    """The sum over every outcome (only_a, only_b, rest) of the trinomial, in exact arithmetic; p by its definition."""
    total = Fraction(0)
    for a, b in product(range(n + 1), repeat=2):
        if a + b > n:
            continue
        p = min(Fraction(1), Fraction(2 * sum(math.comb(a + b, i) for i in range(min(a, b) + 1)), 2 ** (a + b)))
        if p <= Fraction(alpha):
            ways = math.comb(n, a) * math.comb(n - a, b)
            total += ways * only_a**a * only_b**b * (1 - only_a - only_b) ** (n - a - b)
    return total


def connor(n: int, discordance: float, difference: float, alpha: float = 0.05) -> float:
    """Normal approximation to the power (Connor 1987, p. 209; Lachin 1992)."""
    spread = math.sqrt(discordance - difference**2)
    return float(norm.cdf((difference * math.sqrt(n) - norm.isf(alpha / 2) * math.sqrt(discordance)) / spread))


def test_smallest_significant_by_hand() -> None:
    # All on one side: p = 2 / 2^d. 2/2^5 = .0625 is not enough, 2/2^6 = .03125 is.
    assert [smallest_significant(d) for d in range(7)] == [None] * 6 + [6]
    # 8: 1 against 7 is 2 (1 + 8) / 2^8 = .0703, 0 against 8 is needed; 9: 1 against 8 is 2 (1 + 9) / 2^9 = .0391.
    assert [smallest_significant(d) for d in (8, 9)] == [8, 7]
    # p = .0625 exactly is at most .0625: 5 on one side are enough then.
    assert smallest_significant(5, 0.0625) == 5
    # Over 21 pairs, .05 / 21 = .00238: 2/2^9 = .0039 is too much, 2/2^10 = .00195 is not.
    assert [smallest_significant(d, 0.05 / 21) for d in (9, 10)] == [None, 10]


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 15, 0.2])
def test_smallest_significant_is_where_the_test_turns(alpha: float) -> None:
    for discordant in range(80):
        by_test = [
            discordant - 2 * fewer
            for fewer in range(discordant // 2 + 1)
            if mcnemar(discordant - fewer, fewer).p_value <= alpha
        ]
        assert smallest_significant(discordant, alpha) == min(by_test, default=None)


def test_power_by_hand() -> None:
    # n = 6, every problem discordant, a right with probability 3/4: rejects only at 6 : 0 and 0 : 6.
    assert exact_power(6, 1.0, 0.5) == pytest.approx(0.75**6 + 0.25**6, rel=1e-12)
    # n = 7, discordance 1/2, all on one side: 6 or 7 discordant of 7, (7 + 1) / 2^7.
    assert exact_power(7, 0.5, 0.5) == pytest.approx(8 / 128, rel=1e-12)
    assert exact_power(5, 1.0, 1.0) == 0.0
    assert exact_power(100, 0.0, 0.0) == 0.0


@pytest.mark.parametrize("alpha", [0.05, 0.01])
@pytest.mark.parametrize("rates", [("1/5", "1/20"), ("9/20", "1/20"), ("1/10", "1/10"), ("3/10", "0")])
@pytest.mark.parametrize("n", [8, 19, 30])
def test_power_equals_the_sum_over_all_outcomes(n: int, rates: tuple[str, str], alpha: float) -> None:
    only_a, only_b = map(Fraction, rates)
    expected = float(brute_power(n, only_a, only_b, alpha))
    total, difference = float(only_a + only_b), float(only_a - only_b)
    assert exact_power(n, total, difference, alpha) == pytest.approx(expected, rel=1e-10)
    assert exact_power(n, total, -difference, alpha) == pytest.approx(expected, rel=1e-10)


def test_size_keeps_the_level() -> None:
    # Under the null the exact test is conservative: never above alpha.
    sizes = [exact_power(n, rate, 0.0) for n in (10, 50, 300, 1319) for rate in (0.02, 0.1, 0.5, 1.0)]
    assert max(sizes) <= 0.05
    assert exact_power(1319, 0.5, 0.0) > 0.04


def test_published_sample_sizes() -> None:
    # Discordant .45 and .05 need 23 pairs for power .8 (published worked example of Connor's formula); .25 and .125
    # need 248 for .9 by the same formula. The exact test is conservative: at those n it has a little less, not more.
    assert connor(23, 0.5, 0.4) >= 0.8 > connor(22, 0.5, 0.4)
    assert connor(248, 0.375, 0.125) >= 0.9 > connor(247, 0.375, 0.125)
    assert 0.76 < exact_power(23, 0.5, 0.4) < 0.8
    assert 0.88 < exact_power(248, 0.375, 0.125) < 0.9


@pytest.mark.parametrize(("n", "discordance"), [(1319, 0.05), (1319, 0.12), (1319, 0.3), (500, 0.2), (5000, 0.1)])
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 15])
def test_detectable_inverts_the_power_and_is_near_the_normal_formula(n: int, discordance: float, alpha: float) -> None:
    found = detectable_difference(n, discordance, alpha)
    assert found is not None
    assert exact_power(n, discordance, found, alpha) == pytest.approx(0.8, abs=1e-5)
    # Connor's sample size solved for the difference: what the approximation finds is smaller by at most a tenth.
    approximate = next(delta / 1e4 for delta in range(1, 10_000) if connor(n, discordance, delta / 1e4, alpha) >= 0.8)
    assert 0.9 * found < approximate < found + 1e-4


def test_detectable_difference_above_the_discordance_by_hand() -> None:
    # No discordant problem seen: all on one side then, and 6 are needed: n = 6 must all differ, delta^6 = .8.
    assert detectable_difference(6, 0.0) == pytest.approx(0.8 ** (1 / 6), abs=1e-7)
    # n = 7: P(at least 6 of 7) = 7 delta^6 (1 - delta) + delta^7 = .8.
    delta = detectable_difference(7, 0.0)
    assert delta is not None
    assert 7 * delta**6 * (1 - delta) + delta**7 == pytest.approx(0.8, abs=1e-7)
    # Below n = 6 nothing can be shown at .05.
    assert [detectable_difference(n, 0.5) for n in (0, 1, 5)] == [None, None, None]


def test_detectable_difference_moves_the_right_way() -> None:
    by_n = [detectable_difference(n, 0.1) for n in (30, 100, 400, 1319, 5000)]
    by_rate = [detectable_difference(1319, rate) for rate in (0.0, 0.01, 0.05, 0.1, 0.3, 1.0)]
    by_level = [detectable_difference(1319, 0.1, 0.05 / pairs) for pairs in (1, 3, 15, 45)]
    assert by_n == sorted(by_n, reverse=True)
    assert by_rate == sorted(by_rate)
    assert by_level == sorted(by_level)
    assert len({*by_n, *by_rate, *by_level}) == 13  # strictly so; (1319, .1, .05) and (1319, .1, .05 / 1) are one


@pytest.mark.parametrize(
    ("only_a", "only_b", "difference", "low", "high", "p", "said"),
    [
        (25, 11, 1.06, 0.15, 1.97, 0.029, DIFFERS_LITTLE),
        (27, 11, 1.21, 0.28, 2.15, 0.014, DIFFERS),  # possibly beyond two points
        (34, 38, -0.30, -1.58, 0.97, 0.72, EQUAL),
        (30, 9, 1.59, 0.64, 2.54, 0.0011, DIFFERS),
    ],
)
def test_verdicts_on_four_tables_of_1319_problems(
    only_a: int, only_b: int, difference: float, low: float, high: float, p: float, said: str
) -> None:
    ends, exact = paired_interval(only_a, only_b, 1319), mcnemar(only_a, only_b).p_value
    assert 100 * (only_a - only_b) / 1319 == pytest.approx(difference, abs=0.0051)
    assert [100 * end for end in ends] == pytest.approx([low, high], abs=0.0051)
    assert exact == pytest.approx(p, rel=0.04)
    assert verdict(exact, *ends) == said


def test_equality_needs_the_interval_and_a_difference_the_test() -> None:
    assert (DIFFERS_LITTLE, EQUAL) == ("differs, by less than 2 points", "equal within 2 points")
    assert verdict(0.05, 0.001, 0.03) == DIFFERS
    assert verdict(0.05, 0.001, EFFECT) == DIFFERS_LITTLE  # both ends belong to the margin
    assert verdict(0.051, -EFFECT, EFFECT) == EQUAL
    assert verdict(0.051, -0.001, EFFECT + 1e-9) == NO_POWER
    assert verdict(1.0, -0.021, 0.001) == NO_POWER  # the largest p is no equality
    assert verdict(1.0, -0.04, 0.04, effect=0.05) == "equal within 5 points"  # the words name the margin
    assert verdict(0.01, 0.001, 0.01, effect=0.01) == "differs, by less than 1 point"
    assert verdict(1.0, -0.001, 0.002, effect=0.003) == "equal within 0.3 points"
    # An adjusted p may not reject where the interval, which is of this pair alone, lies beyond the margin.
    assert verdict(0.2, 0.021, 0.05) == NO_POWER
    # The paper's AIME26, n = 30, 8 discordant, p = .07: a difference below 26 points could not be relied on to show.
    aime = detectable_difference(30, 8 / 30)
    assert aime is not None
    assert aime == pytest.approx(0.258, abs=1e-3)
    assert verdict(mcnemar(7, 1).p_value, *paired_interval(7, 1, 30)) == NO_POWER
    # 3 discordant problems of 1319 can never be significant, and the two cannot be two points apart.
    assert smallest_significant(3) is None
    assert verdict(1.0, *paired_interval(1, 2, 1319)) == EQUAL


def test_values_outside_their_range_are_named() -> None:
    with pytest.raises(InputError, match="discordant is -1"):
        smallest_significant(-1)
    with pytest.raises(InputError, match="alpha is 5"):
        smallest_significant(10, 5)
    with pytest.raises(InputError, match=r"difference is 0.3, discordance 0.2"):
        exact_power(10, 0.2, 0.3)
    with pytest.raises(InputError, match="n is 0"):
        exact_power(0, 0.2, 0.1)
    with pytest.raises(InputError, match=r"power is 0.01"):
        detectable_difference(10, 0.2, power=0.01)
    with pytest.raises(InputError, match=r"discordance is 1.5"):
        detectable_difference(10, 1.5)
    with pytest.raises(InputError, match="effect is 2"):
        verdict(0.5, 0.0, 0.1, effect=2)
    with pytest.raises(InputError, match=r"the interval is 0.1 to 0.0"):
        verdict(0.5, 0.1, 0.0)
