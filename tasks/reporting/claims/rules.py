"""The rules by which a number confirms or refutes a claim, each defined once.

All of them read the 95 % interval, never the point alone: the claim ``holds`` where the whole interval is in the range
that the claim allows, ``does not hold`` where none of it is, and there is ``no power`` to tell where it lies on both
sides or is not known. So an equality holds only where the interval is narrow (an equivalence test), and a difference
only where 0 is outside. A difference in accuracy takes McNemar's test as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tasks.reporting.claims.measured import Measured
from tasks.reporting.formats import number
from tasks.reporting.join import EFFECT, LEVEL, NO_POWER

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


def same(effect: float = EFFECT) -> Rule:
    """Equal accuracy: the whole interval of the difference lies within ``effect``, a share (two one-sided tests).

    It does not hold where the interval lies outside, or where the test rejects and the interval leaves out 0. One
    part's rejection refutes a claim of m parts, so there, and only there, p counts m times (Bonferroni, which tells
    that some part is unequal exactly where Holm does).
    """

    def judge(found: Measured) -> Judged:
        if found.low is None or found.high is None:
            return Judged(NO_POWER, -abs(found.value))
        slack = min(found.low + effect, effect - found.high)
        if slack >= 0:
            return Judged(HOLDS, slack)
        rejected = found.p is not None and found.p * found.parts <= LEVEL and not found.low <= 0 <= found.high
        outside = found.low > effect or found.high < -effect
        return Judged(FAILS if outside or rejected else NO_POWER, slack)

    return Rule(f"95 % interval within {_points(-effect)} to {_points(effect)} points", judge)


def higher(effect: float = EFFECT) -> Rule:
    """The first run's accuracy is higher, as the test shows and the interval, which may know of repeats, allows.

    It does not hold where the interval's upper end is below ``effect``, a share: then it is lower, or not higher by
    anything that matters. p is each part's own: a claim of several parts holds where every one does, which needs no
    correction (intersection-union test, Berger 1982), and adding runs to a study changes none.
    """
    words = f"higher by McNemar's exact test (p at most {LEVEL}) and the interval above 0"
    return Rule(words, lambda found: _shown(found, 1, effect))


def lower(effect: float = EFFECT) -> Rule:
    """`higher`, of the second run."""
    words = f"lower by McNemar's exact test (p at most {LEVEL}) and the interval below 0"
    return Rule(words, lambda found: _shown(found, -1, effect))


def _shown(found: Measured, sign: int, effect: float) -> Judged:
    slack = sign * found.value
    if found.low is None or found.high is None:
        return Judged(NO_POWER, slack)
    low, high = (found.low, found.high) if sign > 0 else (-found.high, -found.low)
    rejects = found.p is not None and found.p <= LEVEL and slack > 0
    if rejects:
        # These two models differ; where the interval has 0 in it, another training of each might not.
        return Judged(HOLDS if low > 0 else NO_POWER, slack)
    return Judged(FAILS if high < effect else NO_POWER, slack)


def _points(share: float) -> str:
    return f"{100 * share:g}"


def _against(found: Measured, *, low: float = -math.inf, high: float = math.inf) -> Judged:
    if found.low is None or found.high is None:
        return Judged(NO_POWER, min(found.value - low, high - found.value))
    slack = min(found.low - low, high - found.high)
    if slack >= 0:
        return Judged(HOLDS, slack)
    outside = found.high < low or found.low > high
    return Judged(FAILS if outside else NO_POWER, slack)
