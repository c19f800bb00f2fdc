"""What a study gives to MLflow and Prefect beside its folder: plain values, and its description in Markdown."""

from __future__ import annotations

import base64
import csv
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.core.results import RunInfo
from tasks.reporting.formats import in_sentence, number, p_value, percent, points
from tasks.reporting.notes import floor_note
from tasks.reporting.render.condense import warned
from tasks.reporting.render.markdown import escape, table_row
from tasks.reporting.tables.functions import depths, divergences
from tasks.reporting.tables.retention import MEASURES, kept
from tasks.reporting.views.pairs import AT_FLOOR, AT_START, Geometry
from tasks.reporting.views.study import Row, Study

VERDICT = "In this study"
"""The column of a table of claims that one looks for."""

HEAT_MAP = "figures/cosines.png"

MOST_MARKDOWN = 60_000
"""Characters of a report in a Prefect artifact: its page renders all of them at once."""


def run_metrics(study: Study) -> dict[RunInfo, dict[str, float]]:
    """Run -> its metrics, those that were measured: accuracies are shares, losses and divergences nats a token."""
    second = f"accuracy_{re.sub(r'[^A-Za-z0-9_-]', '_', study.second or 'none')}"
    deep, apart, base = depths(study.lens), divergences(study.divergence), study.base.run
    own = {one.name: kept(study, one.name) for one in MEASURES}
    metrics = {}
    for row in study.rows:
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
            **{name: found[row.info.run].value for name, found in own.items() if row.info.run in found},
        }
        metrics[row.info] = {
            name: value for name, value in values.items() if value is not None and math.isfinite(value)
        }
    return metrics


def descriptions(study: Study) -> dict[str, str]:
    """Key of a table that Prefect gets -> what stands above it there."""
    view = study.geometry
    asked = in_sentence(study.primary)
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


BEFORE = 1
"""Sentences before the table. MLflow folds what is longer than a few lines."""


def study_note(study: Study, lead: Sequence[str], warnings: Sequence[str], pages: Mapping[RunInfo, str]) -> str:
    """Markdown in which names and messages are text. ``lead``: the sentences of the report's first screen; ``pages``:
    run -> address of its own page, where it has one."""
    view = study.geometry
    second = study.second
    header = ["run", "accuracy %", "against base", "p", *(["2nd %"] if second else []), "cosine", "norm", "rank"]
    rows = [_cells(row, view, second is not None, pages) for row in study.rows]
    legend = [
        f"accuracy: {in_sentence(study.primary)}",
        "against base: points",
        "p: exact McNemar, Holm-adjusted over the main runs, not that of replicates",
        *([f"2nd: {in_sentence(second)}"] if second else []),
        f"cosine: to {view.reference.run if view.reference else 'sft'}, * at its noise floor",
    ]
    lines = [
        *([f"**{escape(warned(warnings))}**\n"] if warnings else []),
        *(f"{escape(sentence)}\n" for sentence in lead[:BEFORE]),
        table_row(header),
        table_row(["---", *["---:"] * (len(header) - 1)]),
        *map(table_row, rows),
        f"\n{escape('; '.join(legend))}. {escape(floor_note(view))}\n",
        *(f"{escape(sentence)}\n" for sentence in lead[BEFORE:]),
        "The whole report: `report.html` under *Artifacts*.\n",
    ]
    return "\n".join(lines)


def _cells(row: Row, view: Geometry, with_second: bool, pages: Mapping[RunInfo, str]) -> list[str]:
    name, mark = escape(row.info.run), ""
    against = row.first_versus if row.info.method != "base" else None
    if view.reference and row.info in view.runs:
        mark = "\\*" if view.standing(row.info, view.reference) in (AT_FLOOR, AT_START) else ""
    return [
        f"[{name}]({pages[row.info]})" if row.info in pages else name,
        percent(row.first.accuracy if row.first else None),
        points(against.difference) if against else "",
        p_value(against.p) if against else "",
        *([percent(row.second.accuracy if row.second else None)] if with_second else []),
        number(row.cosine, 3) + mark if row.cosine is not None else "",
        number(row.norm, 2) if row.norm is not None else "",
        number(row.effective_rank, 1) if row.effective_rank is not None else "",
    ]
