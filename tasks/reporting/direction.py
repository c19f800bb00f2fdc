"""Sentences on the direction of the updates, relative to the noise floor of their kind of pair."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.contracts import RunInfo
from tasks.reporting.floors import INITIALISATION
from tasks.reporting.formats import number
from tasks.reporting.notes import MOST_LISTED, floor_note, named
from tasks.reporting.pairs import (
    AT_FLOOR,
    AT_START,
    BELOW_FLOOR,
    BELOW_START,
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
    """Which runs move the weights like the reference, relative to the noise floor of their kind of pair."""
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
    start = view.floor_of(INITIALISATION, "cosine")
    if view.floor is None and start is None:
        return f"Cosine to {reference.run}: {_cosines(next(iter(groups.values())))}. {floor_note(view)}"
    said: list[str] = []
    if view.floor is not None:
        meaning = f"the noise floor ({number(view.floor, 3)}: the same training in another order of the data)"
        said += _against(groups.get(AT_FLOOR, []), groups.get(BELOW_FLOOR, []), reference, view.floor, meaning)
    if start is not None:
        meaning = f"the initialisation floor ({number(start.lowest, 3)}: the same method from another initialisation)"
        said += _against(groups.get(AT_START, []), groups.get(BELOW_START, []), reference, start.lowest, meaning)
    said += [f"{lead}: {_cosines(groups[key])}." for key, lead in _UNJUDGED.items() if key in groups]
    return " ".join(said)


_UNJUDGED = {
    OTHER_SEED: "From another LoRA initialisation, where the floor does not apply",
    NO_FLOOR: "From the same LoRA initialisation, for which no floor was measured",
    UNKNOWN_START: "From an initialisation that is not known, so that no floor applies",
}


def _against(
    at: list[tuple[float, RunInfo]], below: list[tuple[float, RunInfo]], reference: RunInfo, floor: float, meaning: str
) -> Iterator[str]:
    if at:
        alike = named([f"{info.run} ({number(cosine, 3)})" for cosine, info in at], MOST_LISTED)
        yield (
            f"By the direction of the weight update, {alike} cannot be told from {reference.run}: cosine at or above "
            f"{meaning}."
        )
    elif below:
        yield f"No method moves the weights as much like {reference.run} as {reference.run} itself does at {meaning}."
    if below:
        lower = [f"{info.run} {number(cosine, 3)} ({number(floor - cosine, 3)} below)" for cosine, info in below]
        yield f"Below the floor: {named(lower, MOST_LISTED)}."


def _cosines(group: list[tuple[float, RunInfo]]) -> str:
    return named([f"{info.run} {number(cosine, 3)}" for cosine, info in group], MOST_LISTED)
