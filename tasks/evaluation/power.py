"""What may be said of two accuracies, and how large a difference McNemar's exact test could have found."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tasks.core.errors import InputError
from tasks.core.results import DIFFERS, EFFECT, LEVEL, NO_POWER, differs_little, equal_within

POWER = 0.8

_ROUNDING = 1 + 1e-12  # p = 2 * 2^-5 is significant at .0625 whichever way the last bit falls


def smallest_significant(discordant: int, alpha: float = LEVEL) -> int | None:
    """The smallest ``|only_a - only_b|`` of that many discordant problems with an exact two-sided p of at most alpha.

    None where not even all of them on one side are enough: up to 5 problems at .05, since ``2 / 2^5 = .0625``.
    `InputError` for a negative count and for an alpha outside (0, 1).
    """
    if discordant < 0:
        raise InputError(f"discordant is {discordant}; counts cannot be negative")
    _check_open("alpha", alpha)
    fewer = int(_critical(np.array([discordant]), alpha)[0])
    return None if fewer < 0 else discordant - 2 * fewer


def exact_power(n: int, discordance: float, difference: float, alpha: float = LEVEL) -> float:
    """Probability that McNemar's exact two-sided test rejects at alpha, on n problems.

    ``discordance`` is the probability that exactly one of the two models solves a problem, ``difference`` (of either
    sign, at most the discordance) that of their accuracies. Unconditional: the test's power given D discordant
    problems, X ~ Binomial(D, (1 + difference / discordance) / 2), averaged over D ~ Binomial(n, discordance) (Duffy
    1984; SAS calls it EXACT_COND). Sums, no simulation, no normal approximation.
    `InputError` for values outside their range.
    """
    if n < 1:
        raise InputError(f"n is {n}; power needs at least one problem")
    if not 0 <= abs(difference) <= discordance <= 1:
        raise InputError(
            f"difference is {difference}, discordance {discordance}; need |difference| <= discordance <= 1"
        )
    _check_open("alpha", alpha)
    if discordance == 0:
        return 0.0  # the models never disagree
    # Imported here: scipy.stats takes most of a second to load, and flows import this module.
    from scipy.stats import binom

    counts = np.arange(n + 1)
    weights = binom.pmf(counts, n, discordance)
    kept = weights > 0
    counts, weights, fewer = counts[kept], weights[kept], _all_critical(n, alpha)[kept]
    side = min(1.0, (1 + abs(difference) / discordance) / 2)
    rejected = binom.cdf(fewer, counts, side) + binom.sf(counts - fewer - 1, counts, side)
    return float(min(1.0, weights @ rejected))


@lru_cache(maxsize=4096)  # the discordance is a count by n: of many pairs, few are different
def detectable_difference(n: int, discordance: float, alpha: float = LEVEL, power: float = POWER) -> float | None:
    """Smallest true difference in accuracy (a share) that the test finds with that power on n problems.

    The discordance rate, the nuisance parameter, is set to the one given (usually the observed ``discordant / n``);
    for differences larger than that, which it does not admit, to the difference itself, the least that does. Why not
    conditional on the observed number of discordant problems: another sample of problems would have another number,
    and two models that agree on 1,316 of 1,319 problems cannot be far apart, though 3 discordant problems can never be
    significant. Conditioning would call that "no power", whatever n.

    A rate estimated from few discordant problems is itself uncertain, and with it the result. None where n is so
    small that not even n problems on one side are significant. `InputError` for values outside their range, and
    unless ``alpha < power < 1``.
    """
    if not 0 <= discordance <= 1:
        raise InputError(f"discordance is {discordance}; it is a share, within [0, 1]")
    _check_open("alpha", alpha)
    if not alpha < power < 1:
        raise InputError(f"power is {power}; it lies between alpha = {alpha} and 1")
    if n < 1 or smallest_significant(n, alpha) is None:
        return None
    from scipy.optimize import brentq

    def missing(difference: float) -> float:
        return exact_power(n, max(discordance, difference), difference, alpha) - power

    # It rises throughout: with the share on one side while the discordance is fixed, then, all on one side, with D.
    return float(brentq(missing, 0.0, 1.0, xtol=1e-9))


def verdict(p_value: float, low: float, high: float, effect: float = EFFECT, alpha: float = LEVEL) -> str:
    """What may be said of a pair: `DIFFERS`, `equal_within` the margin ``effect`` (a share), both at once
    (`differs_little`), or `NO_POWER`.

    ``p_value``: of the test, adjusted where the pair belongs to a family. ``low``, ``high``: the 95 % interval of the
    difference. Different by the test (``p_value <= alpha``); equal by the interval alone: all of it within
    ``[-effect, effect]``, which is two one-sided tests at .025 each (Schuirmann 1987). A large p is no equality, and a
    small one no difference that matters. `InputError` unless ``low <= high``, ``0 < alpha < 1`` and ``0 < effect < 1``.
    """
    _check_open("alpha", alpha)
    _check_open("effect", effect)
    if not low <= high:
        raise InputError(f"the interval is {low} to {high}; its lower end comes first")
    differs, equal = p_value <= alpha, -effect <= low and high <= effect
    if differs:
        return differs_little(effect) if equal else DIFFERS
    return equal_within(effect) if equal else NO_POWER


def _critical(counts: NDArray[np.int64], alpha: float) -> NDArray[np.int64]:
    """For each number of discordant problems the largest minority that is significant at alpha; -1 where none is."""
    from scipy.stats import binom

    # ppf is the first count whose tail reaches alpha / 2: significant only where it meets it exactly.
    first = np.where(counts > 0, binom.ppf(alpha / 2, np.maximum(counts, 1), 0.5), 0.0).astype(np.int64)
    met = 2 * binom.cdf(first, counts, 0.5) <= alpha * _ROUNDING
    return np.where(met, first, first - 1)


@lru_cache(maxsize=64)
def _all_critical(n: int, alpha: float) -> NDArray[np.int64]:
    """`_critical` of 0..n: the same for all pairs of a benchmark."""
    critical = _critical(np.arange(n + 1), alpha)
    critical.flags.writeable = False
    return critical


def _check_open(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise InputError(f"{name} is {value}; it lies between 0 and 1")
