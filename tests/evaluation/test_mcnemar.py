from __future__ import annotations

import pytest
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar

from tasks.contracts import InputError
from tasks.evaluation.mcnemar import McNemar, mcnemar


def test_by_hand() -> None:
    # The paper's AIME pair, discordants 7 and 1: p = 2 * (C(8,0) + C(8,1)) / 2^8 = 2 * 9 / 256 = .0703125.
    assert mcnemar(7, 1) == McNemar(1, pytest.approx(0.0703125, rel=1e-12))
    # 3 and 0: p = 2 / 2^3.
    assert mcnemar(0, 3) == McNemar(0, pytest.approx(0.25, rel=1e-12))


def test_no_evidence_is_one() -> None:
    assert mcnemar(0, 0) == McNemar(0, 1.0)
    assert mcnemar(5, 5) == McNemar(5, 1.0)
    assert mcnemar(6, 5).p_value == 1.0


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
