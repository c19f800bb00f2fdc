"""The section of the page that answers to a reader: pairs, layers, paths and training curves to choose from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from tasks.reporting.charts.explore_charts import (
    AS_TRAINED,
    FLOORS,
    MATCHED,
    NULL,
    PAIR,
    heat_map_chart,
    path_chart,
    profile_chart,
    training_chart,
)
from tasks.reporting.charts.explore_curves import path_data, training_data
from tasks.reporting.charts.explore_pairs import pair_data
from tasks.reporting.notes import MOST_NAMED, count, named
from tasks.reporting.views.pairs import Geometry


@dataclass(frozen=True)
class Explore:
    """What the charts are made of, as JSON can hold it. A part that was not measured is None and has no chart.

    ``notes``: part -> how its numbers were computed and over what n.
    """

    pairs: dict[str, Any] | None
    paths: dict[str, Any] | None
    training: dict[str, Any] | None
    notes: dict[str, str]

    @property
    def data(self) -> dict[str, Any]:
        """Everything that explore.js reads."""
        return {
            "pairs": self.pairs,
            "paths": self.paths,
            "training": self.training,
            "charts": {
                "profile": profile_chart(),
                "heat-map": heat_map_chart(),
                "path": path_chart(),
                "training": training_chart(),
            },
            "words": {"pair": PAIR, "null": NULL, "floors": FLOORS, "plain": AS_TRAINED, "matched": MATCHED},
        }


def build_explore(
    pair_metrics: pl.DataFrame,
    view: Geometry,
    connectivity: pl.DataFrame | None = None,
    training: pl.DataFrame | None = None,
) -> Explore | None:
    """The section of these frames (schemas of `tasks.core.frames`); None where no two runs were compared."""
    pairs = pair_data(pair_metrics, view)
    if pairs is None:
        return None
    paths = None if connectivity is None else path_data(connectivity, view)
    curves = None if training is None else training_data(training, view)
    notes = {"pairs": _pairs_note(pairs, view)}
    if paths is not None:
        notes["paths"] = _paths_note(paths)
    if curves is not None:
        notes["training"] = _training_note(curves)
    return Explore(pairs, paths, curves, notes)


def _pairs_note(pairs: dict[str, Any], view: Geometry) -> str:
    shape = f"{count(view.modules, 'shared module')} in {count(len(pairs['layers']), 'layer')}"
    cut = ""
    if pairs["left_out"]:
        cut += f" Not here: {named(pairs['left_out'], MOST_NAMED)}; pair_metrics.parquet has them."
    if pairs["runs_left_out"]:
        cut += f" {count(pairs['runs_left_out'], 'run')} far from the reference left out; pair_metrics.parquet has all."
    return (
        f"Measured on {shape}. A floor is the same method trained again with another data order or another "
        "initialisation; where several pairs measure it, the one least alike. It judges two methods across data orders "
        "(choose a replicate on one side): two in one order share its noise, which alone brings them above it. Null: "
        f"mean over random subspaces of the same shape.{cut}"
    )


def _paths_note(paths: dict[str, Any]) -> str:
    n = sorted({path["n"] for path in paths["paths"]})
    problems = f"{n[0]} to {n[-1]} problems" if len(n) > 1 else count(n[0], "problem")
    cut = (
        f" Only paths with the reference are here; connectivity.parquet has {paths['left_out']} more pairs."
        if paths["left_out"]
        else ""
    )
    return (
        f"Models on the straight line between two updates, {problems}. Dotted: the chord between the ends; a loss "
        f"above it, or an accuracy below it, is a barrier. Scaled to one norm, the ends are other models.{cut}"
    )


def _training_note(curves: dict[str, Any]) -> str:
    thinned = " Of long runs every n-th step is shown." if curves["thinned"] else ""
    cut = f" Not here: {named(curves['left_out'], MOST_NAMED)}." if curves["left_out"] else ""
    more = " training.parquet has all." if thinned or cut else ""
    return (
        "As logged, not smoothed. Every method minimises its own loss, so heights of two methods do not compare."
        f"{thinned}{cut}{more}"
    )
