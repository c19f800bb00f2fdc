from __future__ import annotations

import json
from dataclasses import replace

import polars as pl
import pytest

from tasks.reporting.join import StudyTables
from tasks.reporting.pairs import geometry
from tasks.reporting.published import accuracy_rows, cosine_rows, run_metrics


def test_metrics_are_the_frames_and_only_what_was_measured(study: StudyTables) -> None:
    metrics = {info.run: values for info, values in run_metrics(study, geometry(study)).items()}
    hard = study.accuracy.filter(run="dpo", benchmark="hard")["accuracy"].item()
    assert (metrics["dpo"]["accuracy_hard"], metrics["dpo"]["cosine_to_sft"]) == (hard, -0.021)
    assert metrics["dpo"]["lens_depth"] == 2.75
    # .1 (1 - .5) 1.1 1e-4: from the base, the earlier run, to dpo
    assert metrics["dpo"]["kl_from_base"] == pytest.approx(5.5e-6, rel=1e-12)
    assert "update_norm" not in metrics["base"]
    assert "kl_from_base" not in metrics["base"]


def test_a_benchmarks_name_becomes_one_that_mlflow_takes(study: StudyTables) -> None:
    odd = replace(study, accuracy=study.accuracy.with_columns(pl.col("benchmark").replace("hard", "../my <set>")))
    assert "accuracy____my__set_" in next(iter(run_metrics(odd, geometry(odd)).values()))


def test_rows_of_prefects_tables_are_json(study: StudyTables) -> None:
    holes = replace(study, pair_metrics=study.pair_metrics.filter(pl.col("run_b") != "dpo"))
    view = geometry(holes)
    rows = {row["run"]: row for row in json.loads(json.dumps(accuracy_rows(holes, view), allow_nan=False))}
    assert rows["sft"]["against base"] == "differs"
    assert rows["dpo"]["cosine to sft"] is None
    matrix = {row["run"]: row for row in json.loads(json.dumps(cosine_rows(view), allow_nan=False))}
    assert (matrix["sft"]["rft"], matrix["sft"]["dpo"]) == (0.958, None)
