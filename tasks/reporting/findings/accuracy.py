"""Sentences on accuracy: which methods change it, which leave it equal, and where nothing can be told."""

from __future__ import annotations

from tasks.core.results import DIFFERS_LITTLE, EQUAL, NO_POWER
from tasks.reporting.formats import benchmark_name, p_value, percent, points, points_interval, span
from tasks.reporting.notes import MOST_LISTED, count, named, spread_words
from tasks.reporting.views.join import (
    BASE_FAMILY,
    MARGIN,
    Score,
    StudyTables,
    Versus,
    base_of,
    score,
    trained_runs,
    unended,
    versus,
)
from tasks.reporting.views.pairs import Geometry
from tasks.reporting.views.same_method import accuracy_apart, floor_clause, unsigned_points

Judged = list[tuple[str, Versus]]


def against_base(tables: StudyTables, view: Geometry, benchmark: str) -> str:
    """Which methods' main runs are higher, lower or equal to the base, and how far runs of one method are apart; empty
    without a test."""
    base = base_of(tables).run
    start = score(tables, base, benchmark)
    if unended(tables, benchmark):
        return f"{benchmark_name(benchmark)} accuracy is not judged: the base's answers do not end."
    compared = [(info.run, versus(tables, info.run, base, benchmark)) for info in trained_runs(tables)]
    asked = [(run, result) for run, result in compared if result is not None and result.family == BASE_FAMILY]
    if start is None or not asked:
        return ""
    groups = {
        "higher for": [entry for entry in asked if entry[1].shown and entry[1].difference > 0],
        "lower for": [entry for entry in asked if entry[1].shown and entry[1].difference < 0],
        f"{EQUAL} for": [entry for entry in asked if entry[1].verdict == EQUAL],
    }
    said = [f"{lead} {_changes(group, len(asked))}" for lead, group in groups.items() if group]
    unsure = [entry for entry in asked if entry[1].verdict == NO_POWER]
    if unsure:
        said.append(_undecided(unsure, len(asked)))
    floor = floor_clause(accuracy_apart(tables, view, benchmark), lambda share: f"{unsigned_points(share)} points")
    test = (
        f"p: exact McNemar, Holm over the {count(len(asked), 'run')} against the base; equal: the 95 % interval lies "
        f"within {MARGIN}."
    )
    parts = (f"{_lead(benchmark, start)} {'; '.join(said)}.", _repeated(asked), f"For comparison: {floor}.", test)
    return " ".join(part for part in parts if part)


def _lead(benchmark: str, start: Score) -> str:
    return f"{benchmark_name(benchmark)} accuracy against the base's {percent(start.accuracy)} % (n = {start.n}):"


def _undecided(group: Judged, asked: int) -> str:
    """No power is never said without the difference that would have been found."""
    known = [100 * result.detectable for _, result in group if result.detectable is not None]
    found = f"only one of {span(known, 1)} points or more would have been found" if known else "none would be found"
    return f"no power to tell for {_changes(group, asked)}: {found}"


def _changes(group: Judged, asked: int) -> str:
    if len(group) == asked > 1 and not any(result.shown for _, result in group):
        all_of = "any of" if group[0][1].verdict == NO_POWER else "all of"
        return f"{all_of} the {count(len(group), 'run')} ({_spread(group)})"
    return named([f"{run} ({_change(result)})" for run, result in group], MOST_LISTED)


def _change(result: Versus) -> str:
    little = f", by less than {MARGIN}" if result.verdict == DIFFERS_LITTLE else ""
    interval = "" if result.shown else f" {points_interval(result.low, result.high)}"
    return f"{points(result.difference)}{interval} points{little}, p = {p_value(result.p)}"


def _spread(group: Judged) -> str:
    changes = sorted(result.difference for _, result in group)
    smallest = min((result.p for _, result in group if result.p is not None), default=None)
    lows, highs = ([end for end in ends if end is not None] for ends in zip(*_ends(group), strict=True))
    widest = f", 95 % intervals within {points_interval(min(lows), max(highs))}" if lows and highs else ""
    discordant = any(result.only_this + result.only_other for _, result in group)
    why = "" if discordant else "; no problem was answered right by one and wrong by the other"
    low, high = points(changes[0]), points(changes[-1])
    return f"changes from {low} to {high} points{widest}, smallest p = {p_value(smallest)}{why}"


def _ends(group: Judged) -> list[tuple[float | None, float | None]]:
    return [(result.low, result.high) for _, result in group]


def _repeated(asked: Judged) -> str:
    """Which of the differences a repeat of the training would be expected to show; empty where none was repeated."""
    shown = [(run, result) for run, result in asked if result.shown and result.repeatable is not None]
    if not shown:
        return ""
    lead = f"With the spread of repeated trainings ({spread_words(shown[0][1])})"
    kept, lost = ([run for run, result in shown if result.repeatable == yes] for yes in (True, False))
    if not lost:
        return f"{lead} the interval still leaves out 0 for {'all of these' if len(kept) > 1 else kept[0]}."
    still = f" leaves out 0 for {named(kept, MOST_LISTED)} but" if kept else ""
    return (
        f"{lead} the interval{still} holds 0 for {named(lost, MOST_LISTED)}: these models differ from the base, a "
        "repeat of the training might not."
    )
