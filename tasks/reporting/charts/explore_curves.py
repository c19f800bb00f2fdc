"""Paths between updates and training curves, compact, for the charts of the page that answer to a reader."""

from __future__ import annotations

from typing import Any

import polars as pl

from tasks.reporting.charts.explore_pairs import finite
from tasks.reporting.charts.picture import colour_of, label_of
from tasks.reporting.tables.study import LOSS
from tasks.reporting.views.pairs import Geometry
from tasks.reporting.views.paths import READINGS

MOST_POINTS = 400
"""Steps of one training curve that are shown; of more, every n-th and the last."""

MOST_VALUES = 20_000
"""Numbers of all paths, and of all training curves: under half a megabyte each."""


def path_data(connectivity: pl.DataFrame, view: Geometry, most: int = MOST_VALUES) -> dict[str, Any] | None:
    """``paths``: one entry a pair, scaling and reading, its alphas ascending; None where no path was measured.

    Of more than ``most`` points the paths with the reference are kept, and ``left_out`` counts the rest.
    """
    known = [info.run for info in view.runs]
    rows = connectivity.filter(
        pl.col("run_a").is_in(known),
        pl.col("run_b").is_in(known),
        pl.col("reading").is_in(list(READINGS)),
        pl.col("value").is_finite(),
    )
    kept = rows
    if rows.height > most and view.reference is not None:
        reference = view.reference.run
        kept = rows.filter((pl.col("run_a") == reference) | (pl.col("run_b") == reference))
    paths = [
        {
            "a": a,
            "b": b,
            "matched": matched,
            "reading": reading,
            "alpha": path["alpha"].to_list(),
            "value": path["value"].to_list(),
            "n": path["n"][0],
        }
        for (a, b, matched, reading), path in kept.sort("alpha").group_by(
            "run_a", "run_b", "matched", "reading", maintain_order=True
        )
    ]
    if not paths:
        return None
    paths.sort(key=lambda path: (known.index(path["a"]), known.index(path["b"]), path["matched"], path["reading"]))
    present = {path["reading"] for path in paths}
    return {
        "readings": [
            {"key": key, "title": reading.title, "scale": reading.scale, "unit": _unit(key)}
            for key, reading in READINGS.items()
            if key in present
        ],
        "paths": paths,
        "left_out": rows.select("run_a", "run_b").n_unique() - kept.select("run_a", "run_b").n_unique(),
    }


def _unit(reading: str) -> str:
    return "Accuracy, %" if reading == "accuracy" else f"Loss, {READINGS[reading].unit}"


def training_data(training: pl.DataFrame, view: Geometry, most: int = MOST_VALUES) -> dict[str, Any] | None:
    """``curves``: one entry a run and metric with its steps; None where nothing was logged.

    The loss comes first, then what most runs have; metrics that do not fit ``most`` numbers are in ``left_out``.
    """
    runs = {info.run: info for info in view.runs}
    rows = training.filter(pl.col("run").is_in(list(runs)), pl.col("value").is_finite()).sort("step")
    counts = rows.group_by("metric").agg(pl.col("run").n_unique())
    metrics = sorted(counts.iter_rows(), key=lambda entry: (entry[0] != LOSS, -entry[1], entry[0]))
    order = list(runs)
    curves: list[dict[str, Any]] = []
    shown: list[str] = []
    left_out, used = [], 0
    for metric, _ in metrics:
        own = rows.filter(pl.col("metric") == metric)
        parts = sorted(own.group_by("run"), key=lambda part: order.index(str(part[0][0])))
        found = [_curve(str(run), metric, part.sort("step")) for (run,), part in parts]
        size = sum(2 * len(curve["value"]) for curve in found)
        if shown and used + size > most:
            left_out.append(metric)
            continue
        used += size
        shown.append(metric)
        curves += found
    if not curves:
        return None
    trained = [run for run in order if any(curve["run"] == run for curve in curves)]
    return {
        "metrics": shown,
        "runs": trained,
        "labels": [label_of(runs[run], view) for run in trained],
        "colours": [colour_of(runs[run], view) for run in trained],
        "floors": [
            view.reference is not None and view.replicate(runs[run], view.reference) is not None for run in trained
        ],
        "curves": curves,
        "left_out": left_out,
        "thinned": any(curve["of"] > len(curve["value"]) for curve in curves),
    }


def _curve(run: str, metric: str, part: pl.DataFrame) -> dict[str, Any]:
    every = -(-part.height // MOST_POINTS)
    kept = sorted({*range(0, part.height, every), part.height - 1})
    steps, values = part["step"].to_list(), [finite(value) for value in part["value"]]
    return {
        "run": run,
        "metric": metric,
        "step": [steps[i] for i in kept],
        "value": [values[i] for i in kept],
        "of": part.height,
    }
