"""The rules by which a number confirms or refutes a claim, each defined once.

All of them read the 95 % interval, never the point alone: the claim ``holds`` where the whole interval is in the range
that the claim allows, ``does not hold`` where none of it is, and there is ``no power`` to tell where it lies on both
sides or is not known. So an equality holds only where the interval is narrow (an equivalence test), and a difference
only where 0 is outside. A difference in accuracy takes McNemar's test as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from tasks.core.results import EFFECT, LEVEL, NO_POWER
from tasks.reporting.claims.measured import Measured
from tasks.reporting.formats import number

HOLDS, FAILS = "holds", "does not hold"


@dataclass(frozen=True)
class Tolerances:
    """How near a number must be to the paper's to confirm it. Conventions: the report says how many verdicts change at
    half and at twice each of them."""

    likeness: float = 0.1
    """Around the paper's cosines, overlaps, fractions, CKA and ratios near 1. Its own neighbouring values lie about .2
    apart (.97, .74, .57, .06), so a tenth keeps them apart."""
    degrees: float = 10.0
    """Around the paper's angles."""
    factor: float = 2.0
    """Of ratios that are far from 1. Half of it is its root, twice its square."""
    negligible: float = 0.01
    """A barrier, in nats a token, below which the paper's own words are "no barrier" (it has +.004)."""
    rank: float = 0.1
    """Share of SFT's effective rank within which ranks count as equal; the paper's four all read "~16"."""
    depth: float = 0.02
    """Share of the layers within which depths count as equal: .7 of the paper's 36."""
    points: float = EFFECT
    """Share of the problems: the smallest difference in accuracy of interest."""

    def around(self, *paper: float) -> tuple[float, float]:
        """The range around numbers of the paper that are cosines, overlaps or shares."""
        return min(paper) - self.likeness, max(paper) + self.likeness

    def changed(self, name: str, times: float) -> Tolerances:
        """One tolerance at so many times its size; a factor to that power."""
        value = getattr(self, name)
        return replace(self, **{name: value**times if name == "factor" else value * times})


TOLERANCES = Tolerances()


@dataclass(frozen=True)
class Judged:
    """``slack``: how far inside the allowed range the number's worse end is; negative outside. ``needs``: of a number
    that decides nothing, what would decide it."""

    verdict: str
    slack: float
    needs: str = ""


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


MORE_RUNS = "replicates of both methods (replicates=all, replicate_orders=2 or more)"
NARROWER = f"a narrower interval: {MORE_RUNS}, or a model of 10 layers or more"


def above_chance() -> Rule:
    """More than chance alone gives (`Measured.null`); no power where that is not known."""

    def judge(found: Measured) -> Judged:
        if found.null is None:
            return Judged(NO_POWER, 0.0, "what chance alone gives, which is not known here")
        return _against(found, low=math.nextafter(found.null, math.inf))

    return Rule("above what chance gives", judge)


def at_floor() -> Rule:
    """Across data orders at least the lowest value of one of the two methods with itself across data orders."""

    def judge(found: Measured) -> Judged:
        crossed, noise = found.crossed, found.noise
        if crossed is None or crossed.low is None or crossed.high is None or noise is None:
            return Judged(NO_POWER, 0.0, MORE_RUNS)
        if crossed.low >= noise.low:
            return Judged(HOLDS, crossed.low - noise.low)
        below = crossed.high - noise.low
        return Judged(FAILS if below < 0 else NO_POWER, below, "" if below < 0 else NARROWER)

    return Rule("across data orders, at least the noise floor", judge)


def near(bound: float, decimals: int = 2, *, distance: bool = False) -> Rule:
    """As near as ``bound``, and nearer than chance, where noise leaves a method that near to itself.

    Measures of likeness (cosine, overlap) are near when high, those of ``distance`` (angles) when low. Where a method
    is farther than ``bound`` from itself there is no power: such noise would excuse any distance between methods, and
    what is near then shares the noise of one data order.
    """

    def judge(found: Measured) -> Judged:
        noise, side = found.noise, {"high" if distance else "low": bound}
        if found.beats_chance is False:
            return Judged(NO_POWER, 0.0, "fewer dimensions (geometry.ks) or a wider model: random subspaces do as well")
        judged = _against(found, **side)
        if noise is not None and (noise.high > bound if distance else noise.low < bound):
            return Judged(NO_POWER, judged.slack, "less noisy training: a method is farther than that from itself")
        return judged

    return Rule(f"at {'most' if distance else 'least'} {number(bound, decimals)}, and nearer than chance", judge)


def apart(low: float, high: float, decimals: int = 2, *, distance: bool = False) -> Rule:
    """In the range around the paper's number, and farther than noise takes a method from itself.

    The noise floor judges the value across data orders; the one in a single order shares that order's noise, which can
    only bring two runs nearer, so where it is clear of the floor already, that is enough. In the range but not clear of
    the floor, or without a floor, there is no power: the pair cannot be told from one method twice.
    """

    def judge(found: Measured) -> Judged:
        judged = _against(found, low=low, high=high)
        if judged.verdict != HOLDS or found.low is None or found.high is None:
            return judged
        if found.noise is None:
            return Judged(NO_POWER, 0.0, "a noise floor: a method trained in two data orders (replicates)")
        ends = [(found.low, found.high)]
        if found.crossed is not None and found.crossed.low is not None and found.crossed.high is not None:
            ends.append((found.crossed.low, found.crossed.high))
        clear = max(a - found.noise.high if distance else found.noise.low - b for a, b in ends)
        return judged if clear > 0 else Judged(NO_POWER, clear, NARROWER)

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
            return Judged(NO_POWER, -abs(found.value), "an interval")
        slack = min(found.low + effect, effect - found.high)
        if slack >= 0:
            return Judged(HOLDS, slack)
        rejected = found.p is not None and found.p * found.parts <= LEVEL and not found.low <= 0 <= found.high
        outside = found.low > effect or found.high < -effect
        return Judged(FAILS, slack) if outside or rejected else Judged(NO_POWER, slack, _problems(found, effect))

    return Rule(f"95 % interval within {_points(-effect)} to {_points(effect)} points", judge)


def higher(effect: float = EFFECT) -> Rule:
    """The first run's accuracy is higher, as the test shows and the interval, which may know of repeats, allows.

    It does not hold where the interval's upper end is below ``effect``, a share: then it is lower, or not higher by
    anything that matters. p is each part's own: a claim of several parts holds where every one does, which needs no
    correction (intersection-union test, Berger 1982), and adding runs to a study changes none.
    """
    words = f"higher by McNemar's exact test (p at most {LEVEL}) and the interval above 0"
    return Rule(words, lambda found: _shown(found, 1, effect))


def ordered() -> Rule:
    """Two rankings agree: the whole interval of their correlation is above 0, and few orders agree as well by chance.

    They do not where none of the interval is above 0. `Measured.p` is the exact permutation test's.
    """

    def judge(found: Measured) -> Judged:
        if found.low is None or found.high is None or found.p is None:
            return Judged(NO_POWER, found.value, f"an interval: {MORE_RUNS}")
        if found.high <= 0:
            return Judged(FAILS, found.high)
        if found.low > 0 and found.p <= LEVEL:
            return Judged(HOLDS, found.low)
        return Judged(NO_POWER, found.low, f"more methods than {found.n}, or replicates of all (replicates=all)")

    return Rule(f"rank correlation above 0, exact permutation p at most {LEVEL}", judge)


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
        return Judged(HOLDS, slack) if low > 0 else Judged(NO_POWER, slack, "replicates: the spread of trainings")
    return Judged(FAILS, slack) if high < effect else Judged(NO_POWER, slack, _problems(found, effect))


def _problems(found: Measured, margin: float) -> str:
    """How many problems would make the interval as narrow as the margin, if it shrank with the root of their number."""
    assert found.low is not None
    assert found.high is not None
    room = margin - abs(found.value) if abs(found.value) < margin else abs(found.value)
    needed = found.n * ((found.high - found.low) / 2 / max(room, margin / 4)) ** 2
    return f"about {max(needed, found.n + 1):,.0f} problems, or replicates where it is trainings that spread"


def _points(share: float) -> str:
    return f"{100 * share:g}"


def _against(found: Measured, *, low: float = -math.inf, high: float = math.inf) -> Judged:
    if found.low is None or found.high is None:
        return Judged(NO_POWER, min(found.value - low, high - found.value), f"an interval: {MORE_RUNS}")
    slack = min(found.low - low, high - found.high)
    if slack >= 0:
        return Judged(HOLDS, slack)
    outside = found.high < low or found.low > high
    return Judged(FAILS, slack) if outside else Judged(NO_POWER, slack, NARROWER)
