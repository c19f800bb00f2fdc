"""McNemar's test: do two models differ on the problems that only one of them solves?"""

from __future__ import annotations

from dataclasses import dataclass

from tasks.core.errors import InputError


@dataclass(frozen=True)
class McNemar:
    """``statistic``: the smaller discordant count, as in statsmodels' exact test; ``p_value``: exact, ``p_mid``: mid-p,
    both two-sided."""

    statistic: int
    p_value: float
    p_mid: float


def mcnemar(only_a: int, only_b: int) -> McNemar:
    """Exact and mid-p two-sided McNemar test from the counts of problems that only a, and only b, answers right.

    Under the null a discordant problem falls to either side with probability 1/2: ``p = min(1, 2 P(X <= min))`` with
    X ~ Binomial(only_a + only_b, 1/2), and of the mid-p ``2 P(X <= min) - P(X = min)`` (Fagerland, Lydersen and Laake
    2013). Without discordant problems both are 1. `InputError` for a negative count.

    The exact test never rejects a true null more often than its level, and mostly less often: at .05 with 500 problems
    of which a tenth are discordant in .037 of cases, the mid-p in .049. Verdicts are the exact test's.

    Examples
    --------
    A alone solves one problem and B alone seven: p = 2 (1 + 8) / 2^8.

    >>> test = mcnemar(1, 7)
    >>> test.statistic, round(test.p_value, 6), round(test.p_mid, 6)
    (1, 0.070312, 0.039063)
    """
    # Imported here: scipy.stats takes most of a second to load, and flows import this module.
    from scipy.stats import binom, binomtest

    if only_a < 0 or only_b < 0:
        raise InputError(f"discordant counts are {only_a} and {only_b}; counts cannot be negative")
    fewer = min(only_a, only_b)
    discordant = only_a + only_b
    exact = float(binomtest(fewer, discordant, 0.5).pvalue) if discordant else 1.0
    # Not exact less P(X = min): of as many on both sides the exact p is cut at 1.
    mid = 2 * binom.cdf(fewer, discordant, 0.5) - binom.pmf(fewer, discordant, 0.5)
    return McNemar(fewer, exact, min(1.0, float(mid)))
