"""The sentences at the top of a report, generated from the numbers: what they say is what the tables show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import polars as pl

from tasks.reporting.findings.accuracy import against_base
from tasks.reporting.findings.direction import direction, weak_floor
from tasks.reporting.findings.functions import barrier_finding, cka_finding, depth_finding, divergence_finding
from tasks.reporting.findings.lead import lead
from tasks.reporting.findings.lost import lost, not_measured
from tasks.reporting.findings.oddities import (
    ceiling,
    diverged,
    endless,
    not_finite,
    overwhelming,
    risen_losses,
    same_updates,
    split_boundary,
    uniform_rewards,
)
from tasks.reporting.findings.topics import ACCURACY, DATA, FUNCTIONS, GEOMETRY, PATHS
from tasks.reporting.formats import percent
from tasks.reporting.notes import MOST_LISTED, named
from tasks.reporting.views.join import StudyTables, base_of, benchmarks, nobody_solves, score
from tasks.reporting.views.pairs import Geometry

MOST_BENCHMARKS = 3
"""Benchmarks that get a sentence; the tables have all."""


@dataclass(frozen=True)
class Findings:
    """``lead``: the short sentences of the first screen; ``sentences``: all that was found, in full, each in the
    section that ``about`` names at its place; ``warnings``: what a reader must know before trusting a number."""

    warnings: tuple[str, ...]
    sentences: tuple[str, ...]
    about: tuple[str, ...] = ()
    lead: tuple[str, ...] = ()

    def on(self, section: str) -> tuple[str, ...]:
        """The sentences of one section."""
        return tuple(said for said, topic in zip(self.sentences, self.about, strict=False) if topic == section)

    def with_sentence(self, section: str, sentence: str) -> Findings:
        """One more sentence at the end; none where it is empty."""
        if not sentence:
            return self
        return replace(self, sentences=(*self.sentences, sentence), about=(*self.about, section))


def about(pairs: Sequence[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """(section, sentence) pairs as the two fields of `Findings`, without empty sentences."""
    said = [(section, sentence) for section, sentence in pairs if sentence]
    return {"sentences": tuple(text for _, text in said), "about": tuple(section for section, _ in said)}


def findings(tables: StudyTables, view: Geometry) -> Findings:
    """The headline of a study, in plain sentences with their numbers."""
    said = [
        (GEOMETRY, direction(view)),
        *((ACCURACY, against_base(tables, view, benchmark)) for benchmark in benchmarks(tables)[:MOST_BENCHMARKS]),
        (PATHS, barrier_finding(tables, view)),
        (FUNCTIONS, cka_finding(tables, view)),
        (FUNCTIONS, divergence_finding(tables, view)),
        (FUNCTIONS, depth_finding(tables, view)),
        (DATA, lost(tables)),
        (DATA, not_measured(tables, view)),
    ]
    return Findings(tuple(_warnings(tables, view)), **about(said), lead=lead(tables, view))


def _warnings(tables: StudyTables, view: Geometry) -> Iterator[str]:
    yield from endless(tables)
    yield from split_boundary(tables.study)
    yield from diverged(tables.study)
    if nobody_solves(tables):
        untaught = tables.accuracy.filter(pl.col("method") != "teacher")
        solved = untaught.sort("accuracy", descending=True).row(0, named=True)
        instead = "read the answer loss instead" if untaught["answer_loss"].count() else "no answer loss was measured"
        yield (
            f"This model does not solve these problems: no accuracy is above {percent(solved['accuracy'])} % "
            f"({solved['correct']} of {solved['n']}, {solved['run']}). Accuracy cannot tell the methods apart here; "
            f"{instead}."
        )
    if tables.accuracy.is_empty():
        yield "No accuracy was measured, neither for the base nor for any method."
    elif all(score(tables, base_of(tables).run, benchmark) is None for benchmark in benchmarks(tables)):
        yield "The base was not evaluated, so no accuracy here can be called a gain or a loss."
    yield from ceiling(tables)
    yield from uniform_rewards(tables.rollouts)
    yield from _zero_updates(view)
    yield from same_updates(view)
    yield from overwhelming(tables, view)
    yield from risen_losses(tables)
    yield from not_finite(tables)
    yield from weak_floor(view)
    for check in tables.study.get("checks") or []:
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
