"""The rules by which a number confirms or refutes a claim, each defined once.

All of them read the 95 % interval, never the point alone: the claim ``holds`` where the whole interval is in the range
that the claim allows, ``does not hold`` where none of it is, and there is ``no power`` to tell where it lies on both
sides or is not known. So an equality holds only where the interval is narrow (an equivalence test), and a difference
only where 0 is outside. Accuracy is judged by McNemar's test and by what it could have found.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tasks.reporting.claims.measured import Measured
from tasks.reporting.formats import number
from tasks.reporting.join import DIFFERS, NO_POWER, NONE_SHOWN

HOLDS, FAILS = "holds", "does not hold"

TENTH = 0.1
"""Tolerance around the paper's cosines, overlaps, fractions, CKA and ratios near 1. Its own neighbouring values lie
about .2 apart (.97, .74, .57, .06), so a tenth keeps them apart."""
DEGREES = 10.0
"""Tolerance around the paper's angles."""
FACTOR = 2.0
"""Tolerance of ratios that are far from 1."""
NEGLIGIBLE = 0.01
"""A barrier, in nats a token, below which the paper's own words are "no barrier" (it has +.004)."""


@dataclass(frozen=True)
class Judged:
    """``slack``: how far inside the allowed range the number's worse end is; negative outside."""

    verdict: str
    slack: float


@dataclass(frozen=True)
class Rule:
    words: str
    judge: Callable[[Measured], Judged]


def within(low: float, high: float, decimals: int = 2) -> Rule:
    """In the closed range."""
    return Rule(
        f"{number(low, decimals)} to {number(high, decimals)}", lambda found: _against(found, low=low, high=high)
    )


def at_least(bound: float, decimals: int = 2) -> Rule:
    return Rule(f"at least {number(bound, decimals)}", lambda found: _against(found, low=bound))


def at_most(bound: float, decimals: int = 2) -> Rule:
    return Rule(f"at most {number(bound, decimals)}", lambda found: _against(found, high=bound))


def above(bound: float = 0.0, decimals: int = 0) -> Rule:
    """More than ``bound``: an interval that begins at it does not show it."""
    return Rule(f"above {number(bound, decimals)}", lambda found: _against(found, low=math.nextafter(bound, math.inf)))


def at_floor() -> Rule:
    """At least the lowest value of one method with itself; no power where that is not known."""

    def judge(found: Measured) -> Judged:
        return _against(found, low=found.noise.low) if found.noise else Judged(NO_POWER, 0.0)

    return Rule("at least the noise floor", judge)


def near(bound: float, decimals: int = 2, *, distance: bool = False) -> Rule:
    """As near as ``bound``, or as near as noise lets a method be to itself: no more can be asked of another method.

    Measures of likeness (cosine, overlap) are near when high, those of ``distance`` (angles) when low.
    """

    def judge(found: Measured) -> Judged:
        noise = found.noise
        if distance:
            return _against(found, high=max(bound, noise.high) if noise else bound)
        return _against(found, low=min(bound, noise.low) if noise else bound)

    words = f"at {'most' if distance else 'least'} {number(bound, decimals)}, or at the noise floor"
    return Rule(words, judge)


def apart(low: float, high: float, decimals: int = 2, *, distance: bool = False) -> Rule:
    """In the range around the paper's number, and farther than noise takes a method from itself.

    In the range but not clear of the noise floor there is no power: the pair cannot be told from one method twice.
    """

    def judge(found: Measured) -> Judged:
        judged = _against(found, low=low, high=high)
        if judged.verdict != HOLDS or found.noise is None or found.low is None or found.high is None:
            return judged
        clear = found.low - found.noise.high if distance else found.noise.low - found.high
        return judged if clear > 0 else Judged(NO_POWER, clear)

    side = "above" if distance else "below"
    return Rule(f"{number(low, decimals)} to {number(high, decimals)} and {side} the noise floor", judge)


def same() -> Rule:
    """No difference in accuracy, by a test that would have found one."""

    def judge(found: Measured) -> Judged:
        verdicts = {DIFFERS: FAILS, NONE_SHOWN: HOLDS}
        return Judged(verdicts.get(found.test or "", NO_POWER), -abs(found.value))

    words = (
        "McNemar's exact test, Holm-adjusted, shows none, and would have found the smallest one of interest (2 points)"
    )
    return Rule(words, judge)


def higher() -> Rule:
    """The first run's accuracy is higher, as a test shows."""
    return Rule("higher by McNemar's exact test, Holm-adjusted, p at most 0.05", lambda found: _shown(found, 1))


def lower() -> Rule:
    """The first run's accuracy is lower, as a test shows."""
    return Rule("lower by McNemar's exact test, Holm-adjusted, p at most 0.05", lambda found: _shown(found, -1))


def _shown(found: Measured, sign: int) -> Judged:
    slack = sign * found.value
    if found.test == DIFFERS:
        return Judged(HOLDS if slack > 0 else FAILS, slack)
    return Judged(FAILS if found.test == NONE_SHOWN else NO_POWER, slack)


def _against(found: Measured, *, low: float = -math.inf, high: float = math.inf) -> Judged:
    if found.low is None or found.high is None:
        return Judged(NO_POWER, min(found.value - low, high - found.value))
    slack = min(found.low - low, high - found.high)
    if slack >= 0:
        return Judged(HOLDS, slack)
    outside = found.high < low or found.low > high
    return Judged(FAILS if outside else NO_POWER, slack)
