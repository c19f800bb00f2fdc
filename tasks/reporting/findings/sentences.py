"""Sentences on what the updates do to the function, and the sections that sentences of a report stand in."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.reporting.formats import number, significant
from tasks.reporting.notes import MOST_LISTED, count, named
from tasks.reporting.tables.functions import depths, depths_apart, divergences
from tasks.reporting.views.pairs import (
    Geometry,
)
from tasks.reporting.views.paths import READINGS, Extreme, largest
from tasks.reporting.views.same_method import floor_clause
from tasks.reporting.views.similarity import POOLINGS, lowest_pair, lowest_replicate
from tasks.reporting.views.study import Study

CLAIMS, ACCURACY, GEOMETRY, WHY, PATHS, FUNCTIONS, DATA = (
    "The paper's claims",
    "Accuracy",
    "Geometry of the updates",
    "Why they differ",
    "Paths between the updates",
    "What the models compute",
    "Data and checks",
)
STUDY = "The study"
"""Titles of the sections of a study's page."""

PAIRS = "Pairs"
"""Of a comparison's."""

STUDIES, DIRECTIONS, RATES, MIDPOINTS = "The studies", "Directions", "Learning rates", "Paths"
ANSWERS = "Open questions"
MANY_CLAIMS = "The paper's claims over the studies"
"""Of a page of many studies, and `ACCURACY`."""


_WEAK_FLOOR = 0.5
"""A floor below this means that a method does not agree with itself, so no cosine between methods says much."""


def weak_floor(view: Geometry) -> Iterator[str]:
    """A warning where a method does not agree with itself."""
    if view.floor is not None and view.floor < _WEAK_FLOOR:
        yield (
            f"The noise floor is only {number(view.floor, 3)}: a method does not agree with itself when the order of "
            "its data changes, so the cosines between methods say little."
        )


def barrier_finding(study: Study) -> str:
    """The largest barrier of every reading against that of runs of one method; empty where none was measured."""
    paths = study.paths
    said = []
    for reading in paths.readings:
        found = largest(paths, study.geometry, reading)
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


def cka_finding(study: Study) -> str:
    """The pair and layer of the lowest CKA, against that of runs of one method; empty where none was measured."""
    view = study.geometry
    found = study.similarity
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


def divergence_finding(study: Study) -> str:
    """The runs by their forward divergence to the base, nearest first; empty where none was measured."""
    found, base = divergences(study.divergence), study.base.run
    runs = [
        (one.value, info.run)
        for info in study.geometry.runs
        if (one := found.get((base, info.run))) and one.value is not None
    ]
    if not runs:
        return ""
    order = named([f"{run} {significant(value)}" for value, run in sorted(runs)], MOST_LISTED)
    return (
        f"Output distributions, KL({base} || run) in nats a token of the reference solutions, nearest first: {order}; "
        f"{_floor(study)}."
    )


def depth_finding(study: Study) -> str:
    """The runs of the least and the greatest logit-lens depth and the base, against how far runs of one method are
    apart; empty where none was measured."""
    deep, base = depths(study.lens), study.base.run
    runs = sorted((deep[info.run], info.run) for info in study.geometry.runs if info.run in deep)
    if not runs:
        return ""
    (low, first), (high, last) = runs[0], runs[-1]
    beside = f"; {base} {number(deep[base], 2)}" if base in deep else ""
    range_ = f"from {number(low, 2)} ({first}) to {number(high, 2)} layers ({last})" if len(runs) > 1 else ""
    said = range_ or f"{number(low, 2)} layers ({first})"
    floor = floor_clause(depths_apart(study), lambda depth: f"{number(depth, 2)} layers")
    return f"Logit-lens depth: {said}{beside}; {floor}."


def _floor(study: Study) -> str:
    """How far runs of one method are from each other, the farther direction of the farthest pair."""
    found = divergences(study.divergence)
    replicates = [
        pair for pairs in study.geometry.replicate_pairs.values() for a, b in pairs for pair in ((a, b), (b, a))
    ]
    values = [(one.value, *pair) for pair in replicates if (one := found.get(pair)) and one.value is not None]
    if not values:
        return "no noise floor was measured for it"
    value, a, b = max(values)
    return f"runs of one method are at most {significant(value)} apart, KL({a} || {b})"
