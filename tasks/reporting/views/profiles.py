"""How a measure against the reference runs over the layers, and what random subspaces give there."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from tasks.reporting.metrics import REVERSED
from tasks.reporting.views.pairs import Geometry


@dataclass(frozen=True)
class Profile:
    """One run against the reference: a value a layer, and the null's mean there (None where it has none)."""

    layers: list[int]
    values: list[float]
    nulls: list[float | None]


def layer_profiles(pair_metrics: pl.DataFrame, view: Geometry, metric: str, k: int | None = None) -> dict[str, Profile]:
    """Run -> its profile of ``metric`` against the reference, from the rows of whole layers (module "*"). A metric that
    depends on which run is first is that of the run first and the reference second."""
    if view.reference is None:
        return {}
    reference = view.reference.run
    named, first, second = pl.col("metric"), pl.col("run_a") == reference, pl.col("run_b") == reference
    turned = REVERSED.get(metric, metric)
    rows = (
        pair_metrics.filter(
            pl.col("module") == "*",
            pl.col("layer").is_not_null(),
            pl.col("projection").is_null(),
            pl.col("k").eq_missing(k),
            pl.col("value").is_not_null(),
            ((named == metric) & second) | ((named == turned) & first),
        )
        .with_columns(run=pl.when(pl.col("run_a") == reference).then("run_b").otherwise("run_a"))
        .sort("run", "layer")
    )
    profiles = {}
    for info in view.runs:
        own = rows.filter(pl.col("run") == info.run)
        if own.height:
            profiles[info.run] = Profile(own["layer"].to_list(), own["value"].to_list(), own["null"].to_list())
    return profiles


def null_profile(profiles: dict[str, Profile]) -> tuple[list[int], list[float]]:
    """Layers and the null's mean there, averaged over the runs (equal where their shapes are); empty without a null."""
    found: dict[int, list[float]] = {}
    for profile in profiles.values():
        for layer, null in zip(profile.layers, profile.nulls, strict=True):
            if null is not None:
                found.setdefault(layer, []).append(null)
    layers = sorted(found)
    return layers, [sum(found[layer]) / len(found[layer]) for layer in layers]
