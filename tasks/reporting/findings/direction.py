"""Sentences on the direction of the updates, relative to the noise floor of their kind of pair."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.core.results import RunInfo
from tasks.reporting.formats import number
from tasks.reporting.notes import MOST_LISTED, floor_note, named
from tasks.reporting.views.floors import INITIALISATION
from tasks.reporting.views.pairs import (
    AT_FLOOR,
    AT_START,
    BELOW_FLOOR,
    BELOW_START,
    COMMON_NOISE,
    NO_FLOOR,
    OTHER_SEED,
    UNKNOWN_START,
    Geometry,
)

_WEAK_FLOOR = 0.5
"""A floor below this means that a method does not agree with itself, so no cosine between methods says much."""


def weak_floor(view: Geometry) -> Iterator[str]:
    """A warning where a method does not agree with itself."""
    if view.floor is not None and view.floor < _WEAK_FLOOR:
        yield (
            f"The noise floor is only {number(view.floor, 3)}: a method does not agree with itself when the order of "
            "its data changes, so the cosines between methods say little."
        )


def direction(view: Geometry) -> str:
    """Which methods move the weights like the reference, each judged against what it is to itself."""
    reference = view.reference
    if reference is None:
        return ""
    groups: dict[str, list[tuple[float, RunInfo]]] = {}
    for info in view.runs:
        cosine = view.cosine(info.run, reference.run)
        if cosine is not None and info.run != reference.run:
            groups.setdefault(view.standing(info, reference), []).append((cosine, info))
    for group in groups.values():
        group.sort(key=lambda entry: -entry[0])
    if not groups:
        return ""
    if view.floor is None and view.floor_of(INITIALISATION, "cosine") is None:
        return f"Cosine to {reference.run}: {_cosines(next(iter(groups.values())))}. {floor_note(view)}"
    said = [
        *_across(view, reference, groups.get(AT_FLOOR, []), groups.get(BELOW_FLOOR, [])),
        *_from_another_start(view, reference, groups.get(AT_START, []), groups.get(BELOW_START, [])),
        *(f"{lead}: {_cosines(groups[key])}." for key, lead in _UNJUDGED.items() if key in groups),
    ]
    return " ".join(said)


_UNJUDGED = {
    OTHER_SEED: "From another LoRA initialisation, where no floor was measured",
    COMMON_NOISE: "In the same data order only, whose noise both share, so that no floor applies",
    NO_FLOOR: "From the same LoRA initialisation, for which no floor was measured",
    UNKNOWN_START: "From an initialisation that is not known, so that no floor applies",
}

_Group = list[tuple[float, RunInfo]]


def _across(view: Geometry, reference: RunInfo, at: _Group, below: _Group) -> Iterator[str]:
    """Across data orders: who is as near to the reference as it (or the other) is to itself, and who is not."""
    if not at and not below:
        return
    own = view.likeness(reference, reference, "cosine").within[0]
    if own:
        yield f"Across data orders {reference.run} agrees with itself to a cosine of {_range(own)}."
    if at:
        yield f"No farther from it than a method is from itself: {_listed(view, at, reference)}."
    if below:
        yield f"Farther from it than a method is from itself: {_listed(view, below, reference)}."


def _listed(view: Geometry, group: _Group, reference: RunInfo) -> str:
    return named([_judged(view, info, reference) for _, info in group], MOST_LISTED)


def _judged(view: Geometry, info: RunInfo, reference: RunInfo) -> str:
    """A method with its cosine across data orders and the one in a single order, which is no fair comparison."""
    found = view.likeness(info, reference, "cosine")
    common = view.cosine(info.run, reference.run) if info.data_seed == reference.data_seed else None
    aside = f"; {number(common, 3)} in one order" if common is not None else ""
    return f"{info.run} ({number(found.mean, 3)}{aside})"


def _range(values: tuple[float, ...]) -> str:
    low, high = number(min(values), 3), number(max(values), 3)
    return low if low == high else f"{low} to {high}"


def _from_another_start(view: Geometry, reference: RunInfo, at: _Group, below: _Group) -> Iterator[str]:
    start = view.floor_of(INITIALISATION, "cosine")
    if start is None:
        return
    meaning = f"{number(start.lowest, 3)}, the same method from another LoRA initialisation"
    if at:
        yield f"From another initialisation, as near to {reference.run} as to itself ({meaning}): {_cosines(at)}."
    if below:
        yield f"From another initialisation, farther from {reference.run} than that ({meaning}): {_cosines(below)}."


def _cosines(group: _Group) -> str:
    return named([f"{info.run} {number(cosine, 3)}" for cosine, info in group], MOST_LISTED)
