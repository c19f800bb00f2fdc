"""What a study gives to MLflow and Prefect beside its folder, as plain values."""

from __future__ import annotations

import base64
import csv
import math
import re
from pathlib import Path

from tasks.core.results import RunInfo
from tasks.reporting.formats import in_sentence
from tasks.reporting.notes import floor_note
from tasks.reporting.tables.functions import depths, divergences
from tasks.reporting.views.join import StudyTables, base_of, primary_benchmark, second_benchmark
from tasks.reporting.views.pairs import Geometry, headline_rows

VERDICT = "In this study"
"""The column of a table of claims that one looks for."""

HEAT_MAP = "figures/cosines.png"

MOST_MARKDOWN = 60_000
"""Characters of a report in a Prefect artifact: its page renders all of them at once."""


def run_metrics(tables: StudyTables, view: Geometry) -> dict[RunInfo, dict[str, float]]:
    """Run -> its metrics, those that were measured: accuracies are shares, losses and divergences nats a token."""
    second = f"accuracy_{re.sub(r'[^A-Za-z0-9_-]', '_', second_benchmark(tables) or 'none')}"
    deep, apart, base = depths(tables.lens), divergences(tables.divergence), base_of(tables).run
    metrics = {}
    for row in headline_rows(tables, view):
        from_base = apart.get((base, row.info.run))
        values = {
            "accuracy": row.first.accuracy if row.first else None,
            "accuracy_minus_base": row.first_versus.difference if row.first_versus else None,
            second: row.second.accuracy if row.second else None,
            "answer_loss": row.first.answer_loss if row.first else None,
            "cosine_to_sft": row.cosine,
            "update_norm": row.norm,
            "effective_rank": row.effective_rank,
            "lens_depth": deep.get(row.info.run),
            "kl_from_base": from_base.value if from_base else None,
        }
        metrics[row.info] = {
            name: value for name, value in values.items() if value is not None and math.isfinite(value)
        }
    return metrics


def descriptions(tables: StudyTables, view: Geometry) -> dict[str, str]:
    """Key of a table that Prefect gets -> what stands above it there."""
    asked = in_sentence(primary_benchmark(tables))
    return {
        "headline": f"Every run at a glance: accuracy on {asked} problems, the base first. {floor_note(view)}",
        "mcnemar": "Pairs of runs: exact McNemar test, Holm-adjusted within a family of pairs, and 95 % intervals.",
        "claims": "The paper's claims that were measured, with their verdicts.",
        "open-questions": "What the paper leaves open.",
        "cosines": f"Global cosine of the weight updates. {floor_note(view)}",
    }


def table_rows(file: Path) -> list[dict[str, str]]:
    """A table of the folder as Prefect takes it: every value as it reads in the report, a verdict before the claim that
    is longer than Prefect's page is wide."""
    with file.open(encoding="utf-8", newline="") as lines:
        # A cell is Markdown there, in which a "-" alone is a bullet.
        rows = [{key: "–" if value == "-" else value for key, value in row.items()} for row in csv.DictReader(lines)]
    return [{VERDICT: row[VERDICT], **row} if VERDICT in row else row for row in rows]


def data_uri(file: Path) -> str:
    """A PNG as a URL that carries it: Prefect's page shows it although no server has the file."""
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"


def top(markdown: str, most: int = MOST_MARKDOWN) -> str:
    """The sections of ``markdown`` that fit into ``most`` characters, and where the rest is."""
    if len(markdown) <= most:
        return markdown
    end = markdown.rfind("\n## ", 0, most)
    kept = markdown[: end if end > 0 else most].rstrip()
    return f"{kept}\n\nThe rest is in report.md, beside report.html.\n"
