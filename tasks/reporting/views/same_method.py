"""The spread of numbers of single runs within one method: what a difference between methods is read against.

Pairs of runs of one method that differ in the order of the data, or in the LoRA initialisation too, are the same that
give the geometry its noise floors (`tasks.reporting.views.floors`); here it is how far a number of one is from the
other's. They stand for all methods: where only one method has replicates, the others are taken to be as noisy as that
one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tasks.reporting.estimates import Spread
from tasks.reporting.formats import listed, number
from tasks.reporting.views.floors import INITIALISATION, ORDER, floor_of
from tasks.reporting.views.pairs import NO_FLOOR, Geometry
from tasks.reporting.views.study import Study

HOW = {ORDER: "in another data order", INITIALISATION: "from another initialisation"}
"""Kind of floor -> what the second run of the method had."""
SAME_METHOD = "Same method"
"""What rows and columns of these differences are called."""
SHORT = {ORDER: "order", INITIALISATION: "initialisation"}

Measure = Callable[[str, str], float | None]
"""(run, other) -> the difference of a number of theirs; None: not measured for one of the two."""


def apart(view: Geometry, measure: Measure) -> dict[str, Spread]:
    """Kind of floor -> the differences of runs of one method; without the kinds that were not measured."""
    found = {kind: floor_of(measure(*pair) for pair in view.replicate_pairs[kind]) for kind in HOW}
    return {kind: one for kind, one in found.items() if one is not None}


def difference_of(value: Callable[[str], float | None]) -> Measure:
    """The `Measure` of a number that each run has by itself."""

    def measure(run: str, other: str) -> float | None:
        one, two = value(run), value(other)
        return None if one is None or two is None else one - two

    return measure


def accuracy_apart(study: Study, benchmark: str) -> dict[str, Spread]:
    """Accuracy (share) on one benchmark, over the problems that both runs answered greedily."""

    def measure(run: str, other: str) -> float | None:
        found = study.versus(run, other, benchmark)
        return found.difference if found else None

    return apart(study.geometry, measure)


def loss_apart(study: Study, benchmark: str) -> dict[str, Spread]:
    """Answer loss, nats a token."""

    def loss(run: str) -> float | None:
        found = study.score(run, benchmark)
        return found.answer_loss if found else None

    return apart(study.geometry, difference_of(loss))


def sampled_apart(study: Study, benchmark: str, metric: str, k: int) -> dict[str, Spread]:
    """One sampled score (share): avg@k, pass@k or maj@k."""
    own = study.samples.filter(benchmark=benchmark, metric=metric, k=k)
    values = dict(own.select("run", "value").iter_rows())
    return apart(study.geometry, difference_of(values.get))


def averages_apart(study: Study, benchmark: str) -> dict[str, Spread]:
    """avg@k of all drawn answers (share), over the problems that both runs answered."""
    own = study.differences.filter(benchmark=benchmark)
    values = {(a, b): value for a, b, value in own.select("run_a", "run_b", "difference").iter_rows()}
    return apart(study.geometry, lambda run, other: values.get((run, other), values.get((other, run))))


def floor_words(found: Mapping[str, Spread], text: Callable[[float], str]) -> tuple[str, tuple[str, ...]]:
    """What a cell says: the largest difference of all kinds; beneath it each kind's, of several pairs with the sd."""
    if not found:
        return NO_FLOOR, ()
    lines: list[str] = []
    for kind, one in found.items():
        lines += [
            f"{SHORT[kind]} {text(one.largest)}",
            *([_sd_words(one, text)] if one.n > 1 else []),
        ]
    return text(max(one.largest for one in found.values())), tuple(lines)


def _sd_words(found: Spread, text: Callable[[float], str]) -> str:
    return f"sd {text(found.sd_of_one)}, {found.n} pairs"


def floor_clause(found: Mapping[str, Spread], text: Callable[[float], str]) -> str:
    """``the same method differs in another data order by 1.0 points``: a part of a sentence; ``text`` with the unit."""
    if not found:
        return "no noise floor was measured for it"
    said = [
        f"{HOW[kind]} by "
        + (text(one.largest) if one.n == 1 else f"at most {text(one.largest)} ({_sd_words(one, text)})")
        for kind, one in found.items()
    ]
    return f"the same method differs {listed(said)}"


def unsigned_points(share: float) -> str:
    """``0.0123 -> '1.2'``: how far apart two shares are, in points."""
    return number(100 * share, 1)


FLOOR_NOTE = (
    "Same method: how far two runs of one method are apart, when only the order of the data changes, or "
    "the LoRA initialisation too; the largest of all such pairs, and where there are several the standard deviation "
    "(sd) of a single run. A difference between methods that is no larger may be the luck of one training. Methods "
    "without such runs are taken to be as noisy as those with them."
)
