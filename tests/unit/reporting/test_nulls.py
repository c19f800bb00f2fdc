"""Both nulls of a cosine in words, and frames of studies from before there was a second one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl

from tasks.reporting.notes import both_nulls
from tasks.reporting.tables.pairs import pair_tables
from tasks.reporting.views.pairs import EVERYTHING, PairEstimate
from tasks.reporting.views.read import _read
from tasks.reporting.views.study import SCHEMAS, Study

NEW = ["null_sd", "shared_null_sd", "shared_percentile"]


def test_both_nulls_stand_beside_a_cosine(study: Study) -> None:
    own = EVERYTHING & (pl.col("metric") == "cosine")
    spreads = {"null_sd": 0.0026, "shared_null_sd": 0.009, "shared_percentile": 28.94}
    frame = study.pair_metrics.with_columns(
        pl.when(own).then(pl.lit(value)).otherwise(pl.lit(None, pl.Float64())).alias(name)
        for name, value in spreads.items()
    )
    (table, _) = pair_tables(replace(study, pair_metrics=frame).geometry)
    said = "random: sd 0.0026; given the common input subspace: sd 0.0090, percentile 28.9"
    shown = [cell.subs for row in table.rows for cell in row if said in cell.subs]
    assert len(shown) == len(study.runs) - 2  # all trained runs but sft against sft; the base has no update
    assert both_nulls(PairEstimate(0.5, null_sd=0.0026)) == ""
    assert both_nulls(PairEstimate(0.5, null_sd=0.1, shared_null_sd=0.2, shared_percentile=99.99)).endswith("99.9")


def test_a_frame_from_before_the_second_null_is_read(study: Study, tmp_path: Path) -> None:
    study.pair_metrics.drop(NEW).write_parquet(tmp_path / "pair_metrics.parquet")
    found = _read(tmp_path / "pair_metrics.parquet", SCHEMAS["pair_metrics"])
    assert found.select(list(SCHEMAS["pair_metrics"])).equals(study.pair_metrics)
    study.spectra.drop("value").write_parquet(tmp_path / "spectra.parquet")
    assert "value" not in _read(tmp_path / "spectra.parquet", SCHEMAS["spectra"]).columns  # refused as it always was
