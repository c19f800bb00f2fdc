"""Read a finished study's folder back into the study that it was written from."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl

from tasks.core.errors import InputError
from tasks.core.results import RunInfo
from tasks.reporting.files import check_sealed
from tasks.reporting.views.study import SCHEMAS, Study

ADDED = {"pair_metrics": ("null_sd", "shared_null_sd", "shared_percentile")}
"""Columns that frames of earlier studies have not."""
NEW_FRAMES = ("gradients", "on_policy", "truncation", "trajectories", "retention", "soups")
"""Frames that earlier studies have not."""
NEEDED = ("study.json", *(f"{frame}.parquet" for frame in SCHEMAS if frame not in NEW_FRAMES))
"""Files without which a folder is no finished study's."""


def read_study(folder: Path) -> Study:
    """The study of ``folder``. Raises `InputError` where it is not a finished study, one of another version, or
    damaged."""
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder}: not a finished study's folder: {', '.join(missing)} missing")
    record = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    check_sealed(folder, record)
    study = Study(
        runs=[RunInfo(**info) for info in record["runs"]],
        rollouts=record["rollouts"],
        record=record,
        **{name: _read(folder / f"{name}.parquet", schema) for name, schema in SCHEMAS.items()},
    )
    return study.checked().judged()


def _read(file: Path, schema: dict[str, pl.DataType]) -> pl.DataFrame:
    """One frame; what studies did not measure before `ADDED` is null, before `NEW_FRAMES` empty."""
    if file.stem in NEW_FRAMES and not file.is_file():
        return pl.DataFrame(schema=schema)
    frame = pl.read_parquet(file)
    new = [name for name in ADDED.get(file.stem, ()) if name not in frame.columns]
    return frame.with_columns(pl.lit(None, schema[name]).alias(name) for name in new)
