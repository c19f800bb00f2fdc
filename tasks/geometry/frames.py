"""Long-format frames of geometry: rows (module, metric, k, value) plus the columns that identify the runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from tasks.core.frames import checked
from tasks.core.places import places

Row = tuple[str, str, int | None, float]
"""module ("*" for all of them), metric, k or None, value (NaN where it is not defined)."""


def long_frame(
    rows: Sequence[Row], runs: Mapping[str, str | int | float], schema: dict[str, pl.DataType], name: str
) -> pl.DataFrame:
    """``rows`` in ``schema``: ``runs`` as constant columns, layer and projection from the module, NaN as null."""
    frame = pl.DataFrame(rows, schema={key: schema[key] for key in ("module", "metric", "k", "value")}, orient="row")
    modules = frame["module"].to_list()
    named = list(dict.fromkeys(name for name in modules if name != "*"))
    found = dict(zip(named, places(named), strict=True))
    return checked(
        frame.with_columns(
            pl.col("value").fill_nan(None),
            pl.Series("layer", [found[name].layer if name in found else None for name in modules], pl.Int64()),
            pl.Series(
                "projection", [found[name].projection if name in found else None for name in modules], pl.String()
            ),
            *(pl.lit(value).alias(column) for column, value in runs.items()),
        ),
        schema,
        name,
    )


def mean(values: Sequence[float]) -> float:
    """Mean of the values that are defined; NaN where none is."""
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan


def median(values: Sequence[float]) -> float:
    """Median of the values that are defined; NaN where none is."""
    defined = [value for value in values if not math.isnan(value)]
    return float(np.median(defined)) if defined else math.nan
