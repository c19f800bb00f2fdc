"""Write a study's folder: the page, its Markdown twin, the frames and ``study.json``; each file whole or not at all."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tasks.reporting.document import Document, build_document
from tasks.reporting.html import render_html
from tasks.reporting.join import StudyTables, frames
from tasks.reporting.markdown import render_markdown
from tasks.reporting.pairs import geometry


def write_report(tables: StudyTables, out: Path) -> list[Path]:
    """Write every file of the report into ``out`` (made if need be) and return their paths, report.html first.

    Everything is rendered before the first byte is written, and each file is replaced in one step, so that a reader
    never finds half a file. Equal tables give equal bytes. Raises `InputError` when a frame is not in its schema.
    """
    data = frames(tables)
    tables = _with(tables, data)
    document = build_document(tables)
    contents = {
        "report.html": render_html(document).encode(),
        "report.md": render_markdown(document).encode(),
        "study.json": study_json(tables, document).encode(),
    }
    for name, frame in data.items():
        buffer = io.BytesIO()
        frame.write_parquet(buffer)
        contents[f"{name}.parquet"] = buffer.getvalue()
    out.mkdir(parents=True, exist_ok=True)
    # The page last: where it is new, so is everything it points to.
    for name in reversed(contents):
        _replace(out / name, contents[name])
    return [out / name for name in contents]


def _with(tables: StudyTables, data: dict[str, Any]) -> StudyTables:
    return replace(tables, **data)


def study_json(tables: StudyTables, document: Document) -> str:
    """The study's record and its headline; what JSON cannot hold becomes null (NaN) or its text (paths)."""
    view = geometry(tables)
    record = {
        **tables.study,
        "runs": [asdict(info) for info in tables.runs],
        "rollouts": tables.rollouts,
        "noise_floor": {"cosine": view.floor, "pairs": view.twins},
        "warnings": document.findings.warnings,
        "headline": document.findings.sentences,
    }
    return json.dumps(_plain(record), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)


def _replace(path: Path, content: bytes) -> None:
    """``content`` in place of ``path`` in one step; a failure leaves the old file and no temporary one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
