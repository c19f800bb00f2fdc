"""Read a finished study's folder back into the tables that it was written from."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl

from tasks.contracts import InputError, RunInfo
from tasks.reporting.join import StudyTables

FRAMES = ("accuracy", "mcnemar", "items", "pair_metrics", "spectra", "training")


def read_tables(folder: Path) -> StudyTables:
    """The tables of ``folder``. Raises `InputError` where it is not a finished study."""
    missing = [
        name for name in ("study.json", *(f"{frame}.parquet" for frame in FRAMES)) if not (folder / name).is_file()
    ]
    if missing:
        raise InputError(f"{folder}: not a finished study's folder: {', '.join(missing)} missing")
    record = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    return StudyTables(
        runs=[RunInfo(**info) for info in record["runs"]],
        rollouts=record["rollouts"],
        study=record,
        **{name: pl.read_parquet(folder / f"{name}.parquet") for name in FRAMES},
    )
