"""The noise floors as they stand in ``study.json`` and ``compare.json``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from tasks.reporting.floors import KINDS, ORDER
from tasks.reporting.pairs import Geometry


def noise_floor(view: Geometry) -> dict[str, Any]:
    """``cosine`` and ``pairs`` of the data order, which judge pairs of one initialisation; then both floors, measure
    by measure: number of pairs, lowest, mean, highest. None: not measured."""
    measures = sorted({(metric, k) for _, _, metric, k in view.values}, key=lambda key: (key[0], key[1] or 0))
    return {
        "cosine": view.floor,
        "pairs": view.twins[ORDER],
        **{kind: _floor(view, kind, measures) if view.twins[kind] else None for kind in KINDS},
    }


def _floor(view: Geometry, kind: str, measures: list[tuple[str, int | None]]) -> dict[str, Any]:
    found = [(metric, k, view.floor_of(kind, metric, k)) for metric, k in measures]
    rows = [{"metric": metric, "k": k, **asdict(floor)} for metric, k, floor in found if floor is not None]
    return {"pairs": view.twins[kind], "measures": rows}
