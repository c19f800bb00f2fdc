"""The numbers behind each drawn figure at full precision, for its CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from tasks.reporting.charts.accuracy import OTHERS
from tasks.reporting.charts.explore_pairs import finite
from tasks.reporting.charts.spectra import mean_spectra
from tasks.reporting.metrics import REVERSED
from tasks.reporting.tables.study import LOSS
from tasks.reporting.views.pairs import EVERYTHING, Geometry
from tasks.reporting.views.paths import READINGS

MOST_ROWS = 4_000
"""Rows of one figure that a page carries; of more, it names the file beside it."""

_VALUES = ("run_a", "run_b", "metric", "k", "layer", "value", "low", "high", "null", "percentile")


def figure_numbers(
    frames: Mapping[str, pl.DataFrame], view: Geometry, keys: Sequence[str], base: str | None = None
) -> dict[str, Any]:
    """Key of a figure -> ``{"columns", "rows"}``, or ``{"file"}`` where there are more than `MOST_ROWS`.

    ``frames``: by name, those of the page. A figure that is not known here is left out: its table has its numbers.
    """
    found: dict[str, Any] = {}
    for key in keys:
        name, frame = _numbers(key, frames, view, base)
        if frame is None or frame.is_empty():
            continue
        if frame.height > MOST_ROWS:
            found[key] = {"file": f"{name}.parquet"}
            continue
        rows = [[finite(value) if isinstance(value, float) else value for value in row] for row in frame.iter_rows()]
        found[key] = {"columns": frame.columns, "rows": rows}
    return found


def _numbers(
    key: str, frames: Mapping[str, pl.DataFrame], view: Geometry, base: str | None
) -> tuple[str, pl.DataFrame | None]:
    """The frame that a figure was drawn from, and the part of it that it shows."""
    if key.startswith("path-"):
        reading = pl.col("reading") == key.removeprefix("path-")
        return "connectivity", _of(frames, "connectivity", reading & _near(view)) if key[5:] in READINGS else None
    if key in ("cosines", "layers", "angles", "outside"):
        return "pair_metrics", _pairs(key, frames, view)
    if key == "spectra":
        means = mean_spectra(frames["spectra"]) if "spectra" in frames else {}
        rows = [(run, k, value) for run, line in means.items() for k, value in line]
        return key, pl.DataFrame(rows, schema=["run", "k", "mean_singular_value"], orient="row") if rows else None
    if key == "training":
        return key, _of(frames, key, pl.col("metric") == LOSS)
    if key == "cka":
        against = _near(view) | (pl.col("run_a") == base) | (pl.col("run_b") == base)
        return key, _of(frames, key, (pl.col("estimator") == "debiased") & against)
    return "accuracy", _of(frames, "accuracy", pl.lit(True)) if key in ("accuracy", OTHERS) else None


def _of(frames: Mapping[str, pl.DataFrame], name: str, condition: pl.Expr) -> pl.DataFrame | None:
    return frames[name].filter(condition) if name in frames else None


def _near(view: Geometry) -> pl.Expr:
    reference = view.reference.run if view.reference else None
    return (pl.col("run_a") == reference) | (pl.col("run_b") == reference)


def _pairs(key: str, frames: Mapping[str, pl.DataFrame], view: Geometry) -> pl.DataFrame | None:
    if "pair_metrics" not in frames:
        return None
    rows = frames["pair_metrics"].select("module", "projection", *_VALUES)
    layers = (pl.col("module") == "*") & pl.col("layer").is_not_null() & pl.col("projection").is_null() & _near(view)
    chosen = {
        "cosines": EVERYTHING & (pl.col("metric") == "cosine"),
        "layers": layers & (pl.col("metric") == "cosine"),
        "angles": layers & (pl.col("metric") == "angle_left") & pl.col("k").is_in([*view.ks[:1], *view.ks[-1:]]),
        "outside": layers & pl.col("metric").is_in([name for pair in REVERSED.items() for name in pair]),
    }
    return rows.filter(chosen[key]).select(_VALUES)
