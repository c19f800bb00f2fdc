"""Views of CKA: the similarity of two runs' hidden states, layer by layer, and why a value is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from tasks.reporting.views.pairs import Geometry

DEBIASED, BIASED = "debiased", "biased"

POOLINGS = {
    "last": "the prompts' last token",
    "mean": "the mean over each prompt's tokens",
    "tokens": "every token of the prompts",
}
"""Pooling -> what one row of the compared matrices is."""


@dataclass(frozen=True)
class Place:
    """One value and its layer."""

    value: float
    layer: int


@dataclass(frozen=True)
class Similarity:
    """CKA of one pooling, ready to look up. Build it with `similarity_of`."""

    pooling: str
    others: tuple[str, ...]
    """Poolings that the frame has beside."""
    rows: int
    layers: tuple[int, ...]
    values: Mapping[tuple[str, str, int, str], tuple[float | None, str | None]]

    def value(self, run: str, other: str, layer: int, estimator: str = DEBIASED) -> float | None:
        """CKA is symmetric: whichever way round the frame has the pair."""
        found = self.values.get((run, other, layer, estimator)) or self.values.get((other, run, layer, estimator))
        return found[0] if found else None

    def reason(self, run: str, other: str, layer: int, estimator: str = DEBIASED) -> str | None:
        """Why there is no value; None where there is one or nothing was measured."""
        found = self.values.get((run, other, layer, estimator)) or self.values.get((other, run, layer, estimator))
        return found[1] if found and found[0] is None else None

    def profile(self, run: str, other: str, estimator: str = DEBIASED) -> list[Place]:
        """The layers that have a value."""
        found = ((layer, self.value(run, other, layer, estimator)) for layer in self.layers)
        return [Place(value, layer) for layer, value in found if value is not None]

    def lowest(self, run: str, other: str) -> Place | None:
        """The layer at which the debiased value is lowest, the first of equals."""
        return min(self.profile(run, other), key=lambda place: place.value, default=None)

    def pairs(self) -> list[tuple[str, str]]:
        """The pairs that the frame has, in its order."""
        return list(dict.fromkeys((a, b) for a, b, _, _ in self.values))

    def reasons(self) -> dict[str, list[int]]:
        """Reason for a missing debiased value -> the layers at which it stands."""
        found: dict[str, set[int]] = {}
        for (_, _, layer, estimator), (value, reason) in self.values.items():
            if value is None and estimator == DEBIASED:
                found.setdefault(reason or "no reason recorded", set()).add(layer)
        return {reason: sorted(layers) for reason, layers in found.items()}


def similarity_of(cka: pl.DataFrame) -> Similarity | None:
    """``cka`` (CKA), ready to look up: the frame's first pooling; None for an empty frame."""
    if cka.is_empty():
        return None
    poolings = cka["pooling"].unique(maintain_order=True).to_list()
    own = cka.filter(pl.col("pooling") == poolings[0])
    columns = ["run_a", "run_b", "layer", "estimator", "value", "reason"]
    values = {
        (a, b, layer, estimator): (None if value is None or value != value else value, reason)
        for a, b, layer, estimator, value, reason in own.select(columns).iter_rows()
    }
    layers = tuple(own["layer"].unique().sort().to_list())
    return Similarity(poolings[0], tuple(poolings[1:]), max(own["n"]), layers, values)


def lowest_pair(found: Similarity, view: Geometry) -> tuple[str, str, Place] | None:
    """The pair and layer of the lowest debiased CKA, noise floors left out; None where no pair has a value."""
    replicates = {frozenset(pair) for pairs in view.replicate_pairs.values() for pair in pairs}
    places = [
        (a, b, place) for a, b in found.pairs() if frozenset((a, b)) not in replicates and (place := found.lowest(a, b))
    ]
    return min(places, key=lambda entry: entry[2].value, default=None)


def lowest_replicate(found: Similarity, view: Geometry) -> tuple[str, str, Place] | None:
    """The same of the noise floors' pairs."""
    replicates = [pair for pairs in view.replicate_pairs.values() for pair in pairs]
    places = [(a, b, place) for a, b in replicates if (place := found.lowest(a, b))]
    return min(places, key=lambda entry: entry[2].value, default=None)
