from __future__ import annotations

from fractions import Fraction
from math import comb

import pytest
from scipy.stats import binom
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar

from tasks.core.errors import InputError
from tasks.evaluation.mcnemar import McNemar, mcnemar


def test_by_hand() -> None:
    # The paper's AIME pair, discordants 7 and 1: p = 2 * (C(8,0) + C(8,1)) / 2^8 = 2 * 9 / 256 = .0703125.
    # mid-p, half of P(X = 1) on either side: 2 * (1 + 4) / 256 = .0390625.
    assert mcnemar(7, 1) == McNemar(1, pytest.approx(0.0703125, rel=1e-12), pytest.approx(0.0390625, rel=1e-12))
    # 3 and 0: p = 2 / 2^3, mid-p half of it.
    assert mcnemar(0, 3) == McNemar(0, pytest.approx(0.25, rel=1e-12), pytest.approx(0.125, rel=1e-12))


def test_approval_ratings_of_agresti() -> None:
    # R's ?mcnemar.test (Agresti 1990, p. 350): 794, 86, 150, 570. With continuity correction, as R computes it,
    # (|86 - 150| - 1)^2 / 236 = 16.818, p = 4.115e-05; without, 64^2 / 236 = 17.356 (Agresti's 17.36).
    table = [[794, 150], [86, 570]]
    corrected = statsmodels_mcnemar(table, exact=False, correction=True)
    assert (corrected.statistic, corrected.pvalue) == (
        pytest.approx(16.818, abs=5e-4),
        pytest.approx(4.115e-5, abs=5e-9),
    )
    assert statsmodels_mcnemar(table, exact=False, correction=False).statistic == pytest.approx(17.36, abs=5e-3)
    # The exact p is the tail itself, summed in integers; the corrected chi-square must come close to it.
    exact = Fraction(2 * sum(comb(236, i) for i in range(87)), 2**236)
    result = mcnemar(86, 150)
    assert result.statistic == 86
    assert result.p_value == pytest.approx(float(exact), rel=1e-10)
    assert result.p_value == pytest.approx(corrected.pvalue, rel=0.15)
    # R's exact2x2 (Fay 2010), mcnemar.exact of the same table: p-value = 3.716e-05.
    assert result.p_value == pytest.approx(3.716e-05, abs=5e-9)


def test_airway_hyper_responsiveness_of_fagerland() -> None:
    # Fagerland, Lydersen and Laake 2013, table 1 (Bentur et al.): 1 and 7 discordant of 21; exact conditional p = .070,
    # asymptotic p = .034.
    assert round(mcnemar(1, 7).p_value, 3) == 0.070
    assert round(mcnemar(1, 7).p_mid, 3) == 0.039  # their McNemar mid-p of the same table
    assert round(statsmodels_mcnemar([[1, 1], [7, 12]], exact=False, correction=False).pvalue, 3) == 0.034


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 1), (2, 9), (11, 30), (101, 160), (600, 719)])
def test_is_the_binomial_tail_in_exact_arithmetic(only_a: int, only_b: int) -> None:
    discordant = only_a + only_b
    exact = min(Fraction(1), Fraction(2 * sum(comb(discordant, i) for i in range(only_a + 1)), 2**discordant))
    assert mcnemar(only_a, only_b).p_value == pytest.approx(float(exact), rel=1e-10)


def test_no_evidence_is_one() -> None:
    assert mcnemar(0, 0) == McNemar(0, 1.0, 1.0)
    assert mcnemar(5, 5) == McNemar(5, 1.0, pytest.approx(1.0, abs=1e-12))
    assert mcnemar(6, 5).p_value == 1.0
    # 2 * 1/2 - C(11, 5) / 2^11
    assert mcnemar(6, 5).p_mid == pytest.approx(1 - 462 / 2048, rel=1e-12)


@pytest.mark.parametrize(("n", "discordance"), [(500, 0.1), (1319, 0.05)])
def test_the_exact_test_is_conservative_and_the_mid_p_is_not(n: int, discordance: float) -> None:
    """Size at .05, enumerated over every outcome: D ~ Binomial(n, discordance), one side ~ Binomial(D, 1/2)."""
    exact = mid = 0.0
    for discordant in range(n + 1):
        weight = float(binom.pmf(discordant, n, discordance))
        if weight < 1e-12:
            continue
        for fewer in range(discordant // 2 + 1):
            ways = float(binom.pmf(fewer, discordant, 0.5)) * (1 if 2 * fewer == discordant else 2)
            found = mcnemar(fewer, discordant - fewer)
            exact += weight * ways * (found.p_value <= 0.05)
            mid += weight * ways * (found.p_mid <= 0.05)
            if found.p_mid > 0.2:
                break
    assert exact == pytest.approx(0.036, abs=0.003)
    assert mid == pytest.approx(0.049, abs=0.003)


@pytest.mark.parametrize("counts", [(1, 0), (4, 9), (12, 3), (60, 41), (0, 40), (140, 22), (500, 500), (700, 400)])
def test_equals_statsmodels_exact_test_both_ways(counts: tuple[int, int]) -> None:
    only_a, only_b = counts
    expected = statsmodels_mcnemar([[10, only_a], [only_b, 10]], exact=True)
    for result in (mcnemar(only_a, only_b), mcnemar(only_b, only_a)):
        assert result.statistic == expected.statistic
        assert result.p_value == pytest.approx(min(1.0, expected.pvalue), rel=1e-9)


def test_negative_counts_are_refused() -> None:
    with pytest.raises(InputError, match="-1 and 2"):
        mcnemar(-1, 2)
