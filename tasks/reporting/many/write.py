"""Write the folder of a page of many studies."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from tasks.reporting.files import json_text, parquet, write_files
from tasks.reporting.many.document import Page, many_page
from tasks.reporting.many.joined import Many
from tasks.reporting.many.sweep import Sweep
from tasks.reporting.publish.figure_files import inert
from tasks.reporting.render.html import render_html
from tasks.reporting.render.markdown import render_markdown


def write_many(
    many: Many, out: Path, measured: pl.DataFrame | None = None, why: str = "", sweep: Sweep | None = None
) -> list[Path]:
    """Write report.html, report.md, many.json, the joined frames and a CSV a figure into ``out``; return their paths.

    ``measured``, ``why`` and ``sweep`` as for `many_page`. Everything is rendered before the first byte is written;
    equal input gives equal bytes.
    """
    page = many_page(many, measured, why, sweep)
    contents = {
        "report.html": render_html(page.document).encode(),
        "report.md": render_markdown(page.document).encode(),
        "many.json": _record(many, page).encode(),
        **{f"{name}.parquet": parquet(frame) for name, frame in page.frames.items()},
        **{f"figure-{key}.csv": _csv(frame).encode() for key, frame in page.numbers.items()},
    }
    return write_files(out, contents)


def _csv(frame: pl.DataFrame) -> str:
    """Names in it are what people called their studies: no spreadsheet is to run them."""
    words = pl.col(pl.String)
    return frame.with_columns(words.map_elements(inert, return_dtype=pl.String)).write_csv()


def _record(many: Many, page: Page) -> str:
    found = page.document.findings
    return json_text(
        {
            "studies": [
                {
                    "label": study.label,
                    "source": study.source,
                    "base": base,
                    "mlflow": (study.tables.study.get("mlflow") or {}).get("study"),
                    "settings": study.tables.study["settings"],
                }
                for study, base in zip(many.studies, many.bases, strict=True)
            ],
            "conditions": [{"method": method, "settings": settings} for method, settings in many.conditions],
            "warnings": found.warnings,
            "headline": found.sentences,
            "notes": page.document.notes,
        }
    )
