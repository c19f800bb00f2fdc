"""What a study gives to MLflow and Prefect beside its folder, as plain values."""

from __future__ import annotations

import math
import re
from typing import Any

from tasks.contracts import RunInfo
from tasks.reporting.function_tables import depths, divergences
from tasks.reporting.join import StudyTables, base_of, second_benchmark
from tasks.reporting.pairs import Geometry, cosine_matrix, headline_rows


def run_metrics(tables: StudyTables, view: Geometry) -> dict[RunInfo, dict[str, float]]:
    """Run -> its metrics, those that were measured: accuracies are shares, losses and divergences nats a token."""
    second = f"accuracy_{re.sub(r'[^A-Za-z0-9_-]', '_', second_benchmark(tables) or 'none')}"
    deep, apart, base = depths(tables.lens), divergences(tables.divergence), base_of(tables).run
    metrics = {}
    for row in headline_rows(tables, view):
        from_base = apart.get((base, row.info.run))
        values = {
            "accuracy": row.first.accuracy if row.first else None,
            second: row.second.accuracy if row.second else None,
            "answer_loss": row.first.answer_loss if row.first else None,
            "cosine_to_sft": row.cosine,
            "update_norm": row.norm,
            "effective_rank": row.effective_rank,
            "lens_depth": deep.get(row.info.run),
            "kl_from_base": from_base.value if from_base else None,
        }
        metrics[row.info] = {name: value for name, value in values.items() if value is not None}
    return metrics


def accuracy_rows(tables: StudyTables, view: Geometry) -> list[dict[str, Any]]:
    """One row a run, on the study's first benchmark."""
    return [
        {
            "run": row.info.run,
            "accuracy": round(row.first.accuracy, 4) if row.first else None,
            "95 % from": round(row.first.low, 4) if row.first else None,
            "to": round(row.first.high, 4) if row.first else None,
            "n": row.first.n if row.first else None,
            "against base": row.first_versus.verdict if row.first_versus else None,
            "cosine to sft": _rounded(row.cosine),
        }
        for row in headline_rows(tables, view)
    ]


def cosine_rows(view: Geometry) -> list[dict[str, Any]]:
    """The matrix of cosines, a row a run."""
    names, matrix = [info.run for info in view.runs], cosine_matrix(view)
    return [
        {"run": name, **{other: _rounded(matrix[i, j]) for j, other in enumerate(names)}}
        for i, name in enumerate(names)
    ]


def _rounded(value: float | None) -> float | None:
    """NaN is what was not measured; JSON has no word for it."""
    return None if value is None or math.isnan(value) else round(float(value), 4)
