"""The sentences at the top of a report, generated from the numbers: what they say is what the tables show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from tasks.reporting.findings.doubts import (
    ceiling,
    diverged,
    endless,
    lost,
    not_finite,
    not_measured,
    overwhelming,
    risen_losses,
    same_updates,
    split_boundary,
    uniform_rewards,
)
from tasks.reporting.findings.lead import lead
from tasks.reporting.findings.sentences import (
    ACCURACY,
    CLAIMS,
    DATA,
    FUNCTIONS,
    PATHS,
    WHY,
    barrier_finding,
    cka_finding,
    depth_finding,
    divergence_finding,
    weak_floor,
)
from tasks.reporting.findings.why import why_finding
from tasks.reporting.formats import percent
from tasks.reporting.notes import MOST_LISTED, named
from tasks.reporting.tables.retention import retention_finding
from tasks.reporting.tables.soups import soups_finding
from tasks.reporting.tables.trajectories import trajectories_finding
from tasks.reporting.tables.truncation import truncation_finding
from tasks.reporting.views.pairs import Geometry
from tasks.reporting.views.study import Study


@dataclass(frozen=True)
class Findings:
    """``warnings``: what a reader must know before trusting a number; ``lead``: the short sentences of the first
    screen; ``found``: what else was found, each with the section that it stands in. Empty sentences do not count."""

    warnings: tuple[str, ...]
    lead: tuple[str, ...]
    found: tuple[tuple[str, str], ...]

    def on(self, section: str) -> tuple[str, ...]:
        """The sentences of one section."""
        return tuple(said for topic, said in self.found if topic == section and said)

    @property
    def sentences(self) -> tuple[str, ...]:
        return tuple(said for _, said in self.found if said)

    @property
    def said(self) -> tuple[str, ...]:
        """Every sentence, those of the first screen in front."""
        return (*self.lead, *self.sentences)


def findings(study: Study, claims: str = "") -> Findings:
    """The headline of a study, in plain sentences with their numbers; ``claims``: the sentence on the paper's."""
    found = (
        (ACCURACY, retention_finding(study)),
        (WHY, why_finding(study)),
        (WHY, truncation_finding(study)),
        (WHY, trajectories_finding(study)),
        (WHY, soups_finding(study)),
        (PATHS, barrier_finding(study)),
        (FUNCTIONS, cka_finding(study)),
        (FUNCTIONS, divergence_finding(study)),
        (FUNCTIONS, depth_finding(study)),
        (DATA, lost(study)),
        (DATA, not_measured(study)),
        (CLAIMS, claims),
    )
    return Findings(tuple(_warnings(study)), lead(study), found)


def _warnings(study: Study) -> Iterator[str]:
    view = study.geometry
    yield from endless(study)
    yield from split_boundary(study.record)
    yield from diverged(study.record)
    if study.nobody_solves:
        untaught = study.accuracy.filter(pl.col("method") != "teacher")
        solved = untaught.sort("accuracy", descending=True).row(0, named=True)
        instead = "read the answer loss instead" if untaught["answer_loss"].count() else "no answer loss was measured"
        yield (
            f"This model does not solve these problems: no accuracy is above {percent(solved['accuracy'])} % "
            f"({solved['correct']} of {solved['n']}, {solved['run']}). Accuracy cannot tell the methods apart here; "
            f"{instead}."
        )
    if study.accuracy.is_empty():
        yield "No accuracy was measured, neither for the base nor for any method."
    elif all(study.score(study.base.run, benchmark) is None for benchmark in study.benchmarks):
        yield "The base was not evaluated, so no accuracy here can be called a gain or a loss."
    yield from ceiling(study)
    yield from uniform_rewards(study.rollouts)
    yield from _zero_updates(view)
    yield from same_updates(view)
    yield from overwhelming(study)
    yield from risen_losses(study)
    yield from not_finite(study)
    yield from weak_floor(view)
    for check in study.record.get("checks") or []:
        if not check["ok"]:
            yield f"Check failed: {check['name']}: {check['detail']}"


def _zero_updates(view: Geometry) -> Iterator[str]:
    """Names the runs that training left where they began: they have no direction, and their accuracy is the base's."""
    nothing = [info.run for info in view.runs if info.run in view.zero]
    if nothing:
        runs, has, is_one = ("run", "has", "it is") if len(nothing) == 1 else ("runs", "have", "they are")
        yield (
            f"The update of {len(nothing)} {runs} is zero: {named(nothing, MOST_LISTED)} {has} no direction to "
            f"compare, and {is_one} still the base."
        )
