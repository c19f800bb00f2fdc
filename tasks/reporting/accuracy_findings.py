"""Sentences on accuracy: which runs change it, and where the test had no power to say."""

from __future__ import annotations

from tasks.reporting.formats import benchmark_name, p_value, percent, points, span
from tasks.reporting.join import (
    NO_POWER,
    NONE_SHOWN,
    Score,
    StudyTables,
    Versus,
    base_of,
    score,
    trained_runs,
    unended,
    versus,
)
from tasks.reporting.notes import MOST_LISTED, count, named
from tasks.reporting.pairs import Geometry
from tasks.reporting.same_method import accuracy_apart, floor_clause, unsigned_points

_TEST = "p: exact McNemar, Holm-adjusted over all pairs of runs; found: with a power of 80 %."

Judged = list[tuple[str, Versus]]


def against_base(tables: StudyTables, view: Geometry, benchmark: str) -> str:
    """Which runs change accuracy against the base, and how far runs of one method are apart; empty without a test."""
    base = base_of(tables).run
    start = score(tables, base, benchmark)
    if unended(tables, benchmark):
        return f"{benchmark_name(benchmark)} accuracy is not judged: the base's answers do not end."
    compared = [(info.run, versus(tables, info.run, base, benchmark)) for info in trained_runs(tables)]
    measured = [(run, result) for run, result in compared if result is not None]
    if start is None or not measured:
        return ""
    groups = {
        "higher for": [entry for entry in measured if entry[1].shown and entry[1].difference > 0],
        "lower for": [entry for entry in measured if entry[1].shown and entry[1].difference < 0],
    }
    said = [f"{lead} {_changes(group)}" for lead, group in groups.items() if group]
    for verdict in (NONE_SHOWN, NO_POWER):
        group = [entry for entry in measured if entry[1].verdict == verdict]
        if group:
            said.append(_undecided(verdict, group, len(group) == len(measured)))
    floor = floor_clause(accuracy_apart(tables, view, benchmark), lambda share: f"{unsigned_points(share)} points")
    return f"{_lead(benchmark, start)} {'; '.join(said)}. For comparison: {floor}. {_TEST}"


def _lead(benchmark: str, start: Score) -> str:
    return f"{benchmark_name(benchmark)} accuracy against the base's {percent(start.accuracy)} % (n = {start.n}):"


def _undecided(verdict: str, group: Judged, alone: bool) -> str:
    """A verdict never stands without the difference that would have been found."""
    who = f"any of the {count(len(group), 'run')} ({_spread(group)})" if alone and len(group) > 1 else _changes(group)
    known = [100 * result.detectable for _, result in group if result.detectable is not None]
    if verdict == NONE_SHOWN:
        return f"{verdict} for {who}, where one of {span(known, 1)} points would have been found"
    found = f"only one of {span(known, 1)} points or more would have been found" if known else "none would be found"
    return f"{verdict} to tell for {who}: {found}"


def _changes(group: Judged) -> str:
    changes = [f"{run} ({points(result.difference)} points, p = {p_value(result.p_holm)})" for run, result in group]
    return named(changes, MOST_LISTED)


def _spread(group: Judged) -> str:
    changes = sorted(result.difference for _, result in group)
    smallest = min((result.p_holm for _, result in group if result.p_holm is not None), default=None)
    discordant = any(result.only_this + result.only_other for _, result in group)
    why = "" if discordant else "; no problem was answered right by one and wrong by the other"
    return f"changes from {points(changes[0])} to {points(changes[-1])} points, smallest p = {p_value(smallest)}{why}"
