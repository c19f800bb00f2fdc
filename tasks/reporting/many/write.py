"""Write the folder of a page of many studies."""

from __future__ import annotations

from pathlib import Path

from tasks.reporting.files import json_text, parquet, write_files
from tasks.reporting.many.answers import answers_table
from tasks.reporting.many.document import many_document, page_frames
from tasks.reporting.many.joined import Many
from tasks.reporting.publish.figure_files import frame_csv, page_files
from tasks.reporting.render.document import Document


def write_many(many: Many, out: Path) -> list[Path]:
    """Write report.html, report.md, many.json, the joined frames and a CSV a figure into ``out``; return their paths.

    Everything is rendered before the first byte is written; equal input gives equal bytes.
    """
    document = many_document(many)
    contents = {
        **page_files(document),
        "many.json": _record(many, document).encode(),
        **{f"{name}.parquet": parquet(frame) for name, frame in page_frames(many).items()},
        **{one.file: frame_csv(one.numbers) for one in document.drawn},
    }
    return write_files(out, contents)


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
