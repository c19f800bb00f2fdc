"""McNemar's exact test: do two models differ on the problems that only one of them solves?"""

from __future__ import annotations

from dataclasses import dataclass

from tasks.contracts import InputError


@dataclass(frozen=True)
class McNemar:
    """``statistic``: the smaller discordant count, as in statsmodels' exact test; ``p_value``: two-sided."""

    statistic: int
    p_value: float


def mcnemar(only_a: int, only_b: int) -> McNemar:
    """Exact two-sided McNemar test from the counts of problems that only a, and only b, answers right.

    Under the null a discordant problem falls to either side with probability 1/2: ``p = min(1, 2 P(X <= min))`` with
    X ~ Binomial(only_a + only_b, 1/2). Without discordant problems p = 1. `InputError` for a negative count.
    """
    # Imported here: scipy.stats takes most of a second to load, and flows import this module.
    from scipy.stats import binomtest

    if only_a < 0 or only_b < 0:
        raise InputError(f"discordant counts are {only_a} and {only_b}; counts cannot be negative")
    fewer = min(only_a, only_b)
    discordant = only_a + only_b
    return McNemar(fewer, float(binomtest(fewer, discordant, 0.5).pvalue) if discordant else 1.0)
