"""Rows of the frames of metrics."""

from __future__ import annotations

import polars as pl

WHOLE = pl.col("module") == "*", pl.col("layer").is_null(), pl.col("projection").is_null()
"""Over everything that two adapters share."""


def of_pairs(frame: pl.DataFrame, metric: str) -> dict[tuple[str, str], float | None]:
    """(run, run) -> a metric over everything."""
    rows = frame.filter(*WHOLE, metric=metric).select("run_a", "run_b", "value").rows()
    return {(a, b): value for a, b, value in rows}
