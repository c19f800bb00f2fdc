"""Sentences that stand under tables and figures of geometry: the noise floors, the intervals and the null."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import combinations

from tasks.core.frames import FEW_LAYERS
from tasks.reporting.estimates import Estimate
from tasks.reporting.formats import listed, number
from tasks.reporting.views.accuracy import Versus
from tasks.reporting.views.floors import INITIALISATION, ORDER
from tasks.reporting.views.pairs import Geometry, PairEstimate

MOST_NAMED = 3
"""Pairs or modules that a sentence names; the tables have them all."""

MOST_LISTED = 8
"""Runs that a sentence lists."""


def floor_note(view: Geometry) -> str:
    """What the noise floors of the cosine are and what they rest on: stands under every table with a cosine in it."""
    if view.floor is None and view.floor_of(INITIALISATION, "cosine") is None:
        return (
            f"No noise floor was measured ({_why(view, ORDER)}), so it is unknown how high the cosine of a method "
            "with itself is, and none between methods can be called high or low."
        )
    return f"{_order_note(view)} {_initialisation_note(view)}"


def _order_note(view: Geometry) -> str:
    if view.floor is None:
        return f"The noise floor of the data order was not measured ({_why(view, ORDER)})."
    replicates = view.replicate_pairs[ORDER]
    what = f"one method and one LoRA initialisation in two data orders ({named_pairs(replicates)})"
    lowest = "the cosine" if len(replicates) == 1 else f"the lowest of {len(replicates)} cosines"
    single = " It is one pair, so it has no spread." if len(replicates) == 1 else ""
    return (
        f"The noise floor is {number(view.floor, 3)}, {lowest} of {what}.{single} It judges two methods across data "
        "orders; in one order they share its noise, which alone brings them above it."
    )


def _initialisation_note(view: Geometry) -> str:
    start = view.floor_of(INITIALISATION, "cosine")
    if start is None:
        return f"The initialisation floor was not measured ({_why(view, INITIALISATION)})."
    many = f"the lowest of {start.n} cosines" if start.n > 1 else "the cosine"
    return (
        f"The initialisation floor is {number(start.lowest, 3)}, {many} between runs of one method from two LoRA "
        f"initialisations ({named_pairs(view.replicate_pairs[INITIALISATION])}); it applies to pairs of two "
        "initialisations."
    )


def _why(view: Geometry, kind: str) -> str:
    if view.replicate_pairs[kind]:
        return f"the cosine of {named_pairs(view.replicate_pairs[kind])} is missing"
    ones = [pair for pair in combinations(view.runs, 2) if pair[0].method == pair[1].method]
    if kind == ORDER and any(view.same(a.run, b.run) for a, b in ones):
        return "runs of one method have one and the same update"
    what = "the order of their data" if kind == ORDER else "their LoRA initialisation"
    return f"no two runs of one method are known to differ in {what} only"


def named_pairs(chosen: Sequence[tuple[str, str]]) -> str:
    """The first few pairs by name, and how many more there are."""
    between = " and " if len(chosen) == 1 else " ~ "
    return named([f"{a}{between}{b}" for a, b in chosen], MOST_NAMED)


def named(words: Sequence[str], most: int) -> str:
    """``words`` as a list, cut after ``most`` with a count of the rest."""
    rest = len(words) - most
    return listed([*words[:most], f"{rest} more"] if rest > 0 else words)


def interval_note(view: Geometry) -> str:
    """How the interval and the null beside a measure are had, and over what n."""
    over = f"over {count(view.modules, 'module')}"
    how = (
        f"t interval {over}, from one number a layer, {view.layers} of them (too few to be resampled)"
        if view.layers < FEW_LAYERS
        else f"bootstrap interval {over}, resampled in whole layers, {view.layers} of them"
    )
    return (
        f"[low, high]: 95 % {how}. Null: mean over random subspaces of the same shape, exact where a formula is "
        "known, otherwise from seeded draws; percentile: percent of the null's draws below the value. That null "
        "knows nothing of a shared initialisation, which alone brings the right subspaces near each other; a cosine's "
        "second one, given the common input subspace, keeps the right singular vectors as measured and draws the left."
    )


def count(n: int, noun: str) -> str:
    """``count(1, 'pair') -> '1 pair'``, ``count(2, 'pair') -> '2 pairs'``."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def interval(found: Estimate, decimals: int) -> str:
    """``[low, high]``; empty where there is none."""
    return found.interval(partial(number, decimals=decimals))


def percentile(found: PairEstimate) -> str:
    """The percentile with one decimal where it is neither 0 nor 100, so that 99.96 does not read as 100."""
    return "" if found.percentile is None else _percent(found.percentile)


def both_nulls(found: PairEstimate) -> str:
    """Of a cosine: how far random directions spread it, and random ones in the common input subspace; empty where
    unknown."""
    if found.null_sd is None or found.shared_null_sd is None or found.shared_percentile is None:
        return ""
    return (
        f"random: sd {number(found.null_sd, 4)}; given the common input subspace: "
        f"sd {number(found.shared_null_sd, 4)}, percentile {_percent(found.shared_percentile)}"
    )


def _percent(rank: float) -> str:
    return f"{rank:.0f}" if rank in (0, 100) else number(min(max(rank, 0.1), 99.9), 1)


def spread_words(found: Versus) -> str:
    """How far one training is from the next, and on what that rests; 0 is what could not be seen."""
    sd = f"sd of one training {number(100 * found.training_sd, 2)} points" if found.training_sd else "none seen"
    return f"{sd}, {freedom(found)}"


def freedom(found: Versus) -> str:
    """``'2 degrees of freedom'`` of the spread of trainings."""
    return f"{found.repeats} degree{'s' if found.repeats != 1 else ''} of freedom"
