"""Sentences on what the updates do to the function: barriers between solutions, hidden states, output distributions."""

from __future__ import annotations

from tasks.reporting.formats import number, significant
from tasks.reporting.notes import MOST_LISTED, count, named
from tasks.reporting.tables.functions import depths, depths_apart, divergences
from tasks.reporting.views.join import StudyTables, base_of
from tasks.reporting.views.pairs import Geometry
from tasks.reporting.views.paths import READINGS, Extreme, largest
from tasks.reporting.views.same_method import floor_clause
from tasks.reporting.views.similarity import POOLINGS, lowest_pair, lowest_replicate


def barrier_finding(tables: StudyTables, view: Geometry) -> str:
    """The largest barrier of every reading against that of runs of one method; empty where none was measured."""
    paths = tables.paths
    said = []
    for reading in paths.readings:
        found = largest(paths, view, reading)
        if found is not None:
            said.append(_barrier(reading, found))
    return f"Barriers on the straight paths between updates: {'; '.join(said)}." if said else ""


def _barrier(reading: str, found: Extreme) -> str:
    how = READINGS[reading]
    text, what = how.text, how.columns[0].title.lower()
    assert found.barrier.value is not None  # `largest` takes only those that have one
    if found.barrier.value == 0:
        return f"{what} none on any of {count(found.paths, 'path')}"
    unit = f"{how.unit.replace('/', ' a ')}"
    floor = f"{text(found.floor.highest)} between runs of one method" if found.floor else "no noise floor measured"
    where = f"{found.run} and {found.other}{', norm-matched' if found.matched else ''}"
    if found.barrier.alpha is not None:
        where += f", at alpha {number(found.barrier.alpha, 2)}"
    chance = f"by chance about {significant(found.by_chance, 2)}"
    shown = f"interval above 0 on {found.shown} of {count(found.paths, 'path')}, {chance}"
    return f"{what} at most {text(found.barrier.value)} {unit} ({where}; {floor}; {shown})"


def cka_finding(tables: StudyTables, view: Geometry) -> str:
    """The pair and layer of the lowest CKA, against that of runs of one method; empty where none was measured."""
    found = tables.similarity
    lowest = lowest_pair(found, view) if found else None
    if found is None or lowest is None:
        return ""
    replicate = lowest_replicate(found, view)
    beside = (
        f"between runs of one method it is never below {number(replicate[2].value, 3)} ({replicate[0]} and "
        f"{replicate[1]}, layer {replicate[2].layer})"
        if replicate
        else "no noise floor was measured for it"
    )
    run, other, place = lowest
    return (
        f"Hidden states at {POOLINGS.get(found.pooling, found.pooling)} (debiased CKA, {found.rows} rows): lowest "
        f"between {run} and {other}, {number(place.value, 3)} at layer {place.layer}; {beside}."
    )


def divergence_finding(tables: StudyTables, view: Geometry) -> str:
    """The runs by their forward divergence to the base, nearest first; empty where none was measured."""
    found, base = divergences(tables.divergence), base_of(tables).run
    runs = [
        (one.value, info.run) for info in view.runs if (one := found.get((base, info.run))) and one.value is not None
    ]
    if not runs:
        return ""
    order = named([f"{run} {significant(value)}" for value, run in sorted(runs)], MOST_LISTED)
    return (
        f"Output distributions, KL({base} || run) in nats a token of the reference solutions, nearest first: {order}; "
        f"{_floor(tables, view)}."
    )


def depth_finding(tables: StudyTables, view: Geometry) -> str:
    """The runs of the least and the greatest logit-lens depth and the base, against how far runs of one method are
    apart; empty where none was measured."""
    deep, base = depths(tables.lens), base_of(tables).run
    runs = sorted((deep[info.run], info.run) for info in view.runs if info.run in deep)
    if not runs:
        return ""
    (low, first), (high, last) = runs[0], runs[-1]
    beside = f"; {base} {number(deep[base], 2)}" if base in deep else ""
    range_ = f"from {number(low, 2)} ({first}) to {number(high, 2)} layers ({last})" if len(runs) > 1 else ""
    said = range_ or f"{number(low, 2)} layers ({first})"
    floor = floor_clause(depths_apart(tables, view), lambda depth: f"{number(depth, 2)} layers")
    return f"Logit-lens depth: {said}{beside}; {floor}."


def _floor(tables: StudyTables, view: Geometry) -> str:
    """How far runs of one method are from each other, the farther direction of the farthest pair."""
    found = divergences(tables.divergence)
    replicates = [pair for pairs in view.replicate_pairs.values() for a, b in pairs for pair in ((a, b), (b, a))]
    values = [(one.value, *pair) for pair in replicates if (one := found.get(pair)) and one.value is not None]
    if not values:
        return "no noise floor was measured for it"
    value, a, b = max(values)
    return f"runs of one method are at most {significant(value)} apart, KL({a} || {b})"
