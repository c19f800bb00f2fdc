"""Write the folder of a comparison of evaluation logs: page, Markdown, JSON, the frames as parquet and CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from tasks.core.frames import LOG_MODELS, LOG_PAIRS, checked
from tasks.core.results import in_points
from tasks.reporting.charts.logs import log_accuracy_picture
from tasks.reporting.files import json_text, parquet, write_files
from tasks.reporting.findings.headline import Findings
from tasks.reporting.findings.logs import answer
from tasks.reporting.formats import listed, span
from tasks.reporting.publish.figure_files import figure_files, frame_csv, page_files
from tasks.reporting.render.document import Document, Section
from tasks.reporting.tables.logs import log_models_table, log_pairs_table

_LONGEST_TITLE = 60


def logs_document(
    models: pl.DataFrame, pairs: pl.DataFrame, margin: float, notes: Sequence[str], warnings: Sequence[str]
) -> Document:
    """The page of ``models`` (LOG_MODELS) and their ``pairs`` (LOG_PAIRS), equal within ``margin`` points."""
    names = listed(models["model"].to_list())
    return Document(
        brand="colinear accuracy",
        name=names if len(names) <= _LONGEST_TITLE else f"{models.height} models",
        facts=(
            ("Models", str(models.height)),
            ("Pairs", str(pairs.height)),
            ("Problems of a pair", span(pairs["n"].cast(pl.Float64).to_list(), 0)),
            ("Equal means", f"within {in_points(margin / 100)}"),
        ),
        findings=Findings(tuple(warnings), (answer(pairs, margin),), ()),
        notes=tuple(notes),
        pictures=(log_accuracy_picture(models),),
        headline=log_pairs_table(pairs, margin),
        sections=(Section("The models", [log_models_table(models)]),),
        files=("accuracy.json", *(f"{name}.{kind}" for name in ("models", "pairs") for kind in ("parquet", "csv"))),
        notes_title="How the logs were read",
    )


def write_logs(
    models: pl.DataFrame,
    pairs: pl.DataFrame,
    margin: float,
    record: Mapping[str, Any],
    out: Path,
    notes: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> list[Path]:
    """Write every file into ``out`` (made if need be) and return the paths, report.html first.

    ``record``: what accuracy.json is to hold. Each file is written whole or not at all; equal input gives equal bytes.
    Raises `InputError` for a frame that is not in its schema.
    """
    frames = {"models": checked(models, LOG_MODELS, "models"), "pairs": checked(pairs, LOG_PAIRS, "pairs")}
    document = logs_document(frames["models"], frames["pairs"], margin, notes, warnings)
    return write_files(
        out,
        {
            **page_files(document),
            "accuracy.json": json_text(record).encode(),
            **{f"{name}.parquet": parquet(frame) for name, frame in frames.items()},
            **{f"{name}.csv": frame_csv(frame) for name, frame in frames.items()},
            **figure_files(document.drawn),
        },
    )
