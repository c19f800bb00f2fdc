"""Write a study's folder: the page, its Markdown form, the frames, ``study.json``, figures and chief tables; each file
whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from tasks.reporting.claims import claims_json
from tasks.reporting.files import parquet, write_files
from tasks.reporting.publish.figure_files import figure_files, table_files
from tasks.reporting.publish.headline_numbers import headline_numbers
from tasks.reporting.publish.noise import noise_floor, single_floors
from tasks.reporting.render.document import Document, build_document
from tasks.reporting.render.html import render_html
from tasks.reporting.render.markdown import render_markdown
from tasks.reporting.seal import sealed_json
from tasks.reporting.views.join import StudyTables, frames, with_frames


def write_report(tables: StudyTables, out: Path) -> list[Path]:
    """Write every file of the report into ``out`` (made if need be) and return their paths, report.html first.

    Everything is rendered before the first byte is written, and each file is replaced in one step, so that a reader
    never finds half a file. Equal tables give equal bytes. Raises `InputError` when a frame is not in its schema.
    """
    data = frames(tables)
    tables = with_frames(tables, data)
    document = build_document(tables)
    others = {
        "report.html": render_html(document).encode(),
        "report.md": render_markdown(document).encode(),
        "claims.json": claims_json(document.claims).encode(),
        **{f"{name}.parquet": parquet(frame) for name, frame in data.items()},
        **figure_files(document.drawn),
        **table_files(document),
    }
    pages = {name: others.pop(name) for name in ("report.html", "report.md")}
    record = study_json(tables, document, {**pages, **others}).encode()
    return write_files(out, {**pages, "study.json": record, **others})


def study_json(tables: StudyTables, document: Document, others: Mapping[str, bytes]) -> str:
    """The study's record and its headline, sealed with the ``others`` of its folder (name -> bytes); what JSON cannot
    hold becomes null (NaN) or its text (paths)."""
    view = tables.geometry
    return sealed_json(
        {
            **tables.study,
            "runs": [asdict(info) for info in tables.runs],
            "rollouts": tables.rollouts,
            "noise_floor": {**noise_floor(view), **single_floors(tables, view)},
            "warnings": document.findings.warnings,
            "headline": document.findings.sentences,
            "numbers": headline_numbers(tables, view),
        },
        others,
    )
