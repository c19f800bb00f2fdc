"""The noise floors as they stand in ``study.json`` and ``compare.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.reporting.estimates import Spread
from tasks.reporting.tables.functions import depths_apart
from tasks.reporting.views.floors import KINDS, ORDER
from tasks.reporting.views.join import StudyTables, benchmarks
from tasks.reporting.views.pairs import Geometry
from tasks.reporting.views.same_method import accuracy_apart, loss_apart, sampled_apart


def noise_floor(view: Geometry) -> dict[str, Any]:
    """``cosine`` and ``pairs`` of the data order, which judge pairs of one initialisation; then both floors, measure
    by measure: number of pairs, lowest, mean, highest. None: not measured."""
    measures = sorted({(metric, k) for _, _, metric, k in view.values}, key=lambda key: (key[0], key[1] or 0))
    return {
        "cosine": view.floor,
        "pairs": view.replicate_pairs[ORDER],
        **{kind: _floor(view, kind, measures) if view.replicate_pairs[kind] else None for kind in KINDS},
    }


def single_floors(tables: StudyTables, view: Geometry) -> dict[str, Any]:
    """How far runs of one method are apart in accuracy, sampled scores (shares), answer loss and logit-lens depth.

    For each kind of floor the number of pairs, the largest difference and the standard deviation of a single run.
    """
    names = benchmarks(tables)
    scores = tables.samples.select("benchmark", "metric", "k").unique(maintain_order=True).rows()
    sampled = [
        {"benchmark": name, "metric": metric, "k": k, **_kinds(sampled_apart(tables, view, name, metric, k))}
        for name, metric, k in scores
    ]
    return {
        "accuracy": {name: _kinds(accuracy_apart(tables, view, name)) for name in names},
        "answer_loss": {name: _kinds(loss_apart(tables, view, name)) for name in names},
        "samples": sampled,
        "depth": _kinds(depths_apart(tables, view)),
    }


def _kinds(found: Mapping[str, Spread]) -> dict[str, Any]:
    known = {kind: {"n": one.n, "highest": one.largest, "sd": one.sd_of_one} for kind, one in found.items()}
    return {kind: known.get(kind) for kind in KINDS}


def range_of(floor: Spread) -> dict[str, float]:
    """A floor as it stands in a record."""
    return {"n": floor.n, "lowest": floor.lowest, "mean": floor.mean, "highest": floor.highest}


def _floor(view: Geometry, kind: str, measures: list[tuple[str, int | None]]) -> dict[str, Any]:
    found = [(metric, k, view.floor_of(kind, metric, k)) for metric, k in measures]
    rows = [{"metric": metric, "k": k, **range_of(floor)} for metric, k, floor in found if floor is not None]
    return {"pairs": view.replicate_pairs[kind], "measures": rows}
