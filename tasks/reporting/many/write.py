"""Write the folder of a page of many studies."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from tasks.reporting.files import json_text, parquet, write_files
from tasks.reporting.many.answers import answers_table
from tasks.reporting.many.document import many_document, page_frames
from tasks.reporting.many.joined import Many
from tasks.reporting.publish.figure_files import inert
from tasks.reporting.render.document import Document
from tasks.reporting.render.html import render_html
from tasks.reporting.render.markdown import render_markdown


def write_many(many: Many, out: Path) -> list[Path]:
    """Write report.html, report.md, many.json, the joined frames and a CSV a figure into ``out``; return their paths.

    Everything is rendered before the first byte is written; equal input gives equal bytes.
    """
    document = many_document(many)
    contents = {
        "report.html": render_html(document).encode(),
        "report.md": render_markdown(document).encode(),
        "many.json": _record(many, document).encode(),
        **{f"{name}.parquet": parquet(frame) for name, frame in page_frames(many).items()},
        **{one.file: _csv(one.numbers).encode() for one in document.drawn},
    }
    return write_files(out, contents)


def _csv(frame: pl.DataFrame) -> str:
    """Names in it are what people called their studies: no spreadsheet is to run them."""
    words = pl.col(pl.String)
    return frame.with_columns(words.map_elements(inert, return_dtype=pl.String)).write_csv()


def _record(many: Many, document: Document) -> str:
    found = document.findings
    return json_text(
        {
            "studies": [
                {
                    "label": study.label,
                    "source": study.source,
                    "base": base,
                    "mlflow": (study.record.get("mlflow") or {}).get("study"),
                    "settings": study.record["settings"],
                }
                for study, base in zip(many.studies, many.bases, strict=True)
            ],
            "conditions": [{"method": method, "settings": settings} for method, settings in many.conditions],
            "warnings": found.warnings,
            "headline": found.said,
            "answers": [" ".join(cell.plain for cell in row[:2]) for row in answers_table(many).rows],
            "notes": document.notes,
        }
    )
