"""Write the folder of a study or of a comparison: page, Markdown, frames, record, figures, tables; each file whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import polars as pl

from tasks.core.errors import InputError
from tasks.core.frames import (
    ADAPTERS,
    MERGE_LOSSES,
    MERGES,
    PAIR_METRICS_FRAME,
    RELATIONS,
    SPECTRA,
    UNSHARED,
    checked,
)
from tasks.core.results import RunInfo
from tasks.reporting.charts.svg import draw_ahead
from tasks.reporting.claims.output import claims_json
from tasks.reporting.files import json_text, parquet, sealed_json, write_files
from tasks.reporting.publish.figure_files import figure_files, page_files, table_files
from tasks.reporting.publish.numbers import headline_numbers, noise_floor, single_floors
from tasks.reporting.render.comparison_document import comparison_document
from tasks.reporting.render.document import Document, build_document
from tasks.reporting.views.study import Comparison, Study


def write_report(study: Study, out: Path) -> list[Path]:
    """Write every file of the report into ``out`` (made if need be) and return their paths, report.html first.

    Everything is rendered before the first byte is written, and each file is replaced in one step, so that a reader
    never finds half a file. Equal studies give equal bytes. Raises `InputError` when a frame is not in its schema.
    """
    study = study.checked()
    document = build_document(study)
    pages = page_files(document)
    others = {
        "claims.json": claims_json(document.claims).encode(),
        **{f"{name}.parquet": parquet(frame) for name, frame in study.frames.items()},
        **figure_files(document.drawn),
        **table_files(document),
    }
    record = study_json(study, document, {**pages, **others}).encode()
    return write_files(out, {**pages, "study.json": record, **others})


def study_json(study: Study, document: Document, others: Mapping[str, bytes]) -> str:
    """The study's record and its headline, sealed with the ``others`` of its folder (name -> bytes); what JSON cannot
    hold becomes null (NaN) or its text (paths)."""
    return sealed_json(
        {
            **study.record,
            "runs": [asdict(info) for info in study.runs],
            "rollouts": study.rollouts,
            "noise_floor": {**noise_floor(study.geometry), **single_floors(study)},
            "warnings": document.findings.warnings,
            "headline": document.findings.said,
            "numbers": headline_numbers(study),
        },
        others,
    )


DERIVED = {"relations": RELATIONS, "merges": MERGES, "merge_losses": MERGE_LOSSES}
"""Frames of a comparison that may be missing."""

SCHEMAS = {"pair_metrics": PAIR_METRICS_FRAME, "spectra": SPECTRA, "adapters": ADAPTERS, "unshared": UNSHARED}


def write_comparison(
    runs: Sequence[RunInfo], frames: Mapping[str, pl.DataFrame], notes: Sequence[str], reference: str, out: Path
) -> list[Path]:
    """Write the comparison of ``runs`` into ``out`` (made if need be) and return the paths, report.html first.

    ``frames``: pair_metrics, spectra, adapters, unshared, and any of `DERIVED`, in their schemas. Two runs of one
    ``method`` (and ``lr``) are taken for replicates, which measure a noise floor: give what is not known to be one
    method names of its own. ``reference``: the run that the others are compared with.

    Each file is written whole or not at all; equal input gives equal bytes. Raises `InputError` for a frame that is
    missing or not in its schema, for two runs of one name, and for a reference that is none of the runs.
    """
    missing = [name for name in SCHEMAS if name not in frames]
    if missing:
        raise InputError(f"comparison: frames missing: {', '.join(missing)}")
    names = [info.run for info in runs]
    if len(set(names)) < len(names):
        raise InputError(f"comparison: two adapters have one name among {', '.join(names)}; give each its own")
    if reference not in names:
        raise InputError(f"reference: {reference} is none of the adapters; choose one of {', '.join(names)}")
    wanted = {**SCHEMAS, **{name: schema for name, schema in DERIVED.items() if name in frames}}
    data = {name: checked(frames[name], schema, name) for name, schema in wanted.items()}
    compared = Comparison(runs=list(runs), reference=runs[names.index(reference)], **data)
    document = comparison_document(compared, tuple(notes))
    for picture in document.drawn:
        draw_ahead(picture.spec)
    record = {
        "reference": reference,
        "runs": [asdict(info) for info in runs],
        "adapters": data["adapters"].to_dicts(),
        "noise_floor": noise_floor(compared.geometry),
        **{name: data[name].to_dicts() for name in DERIVED if name in data},
        "warnings": document.findings.warnings,
        "headline": document.findings.said,
        "notes": notes,
    }
    others = {
        "compare.json": json_text(record).encode(),
        **{f"{name}.parquet": parquet(frame) for name, frame in data.items()},
    }
    return write_files(out, {**page_files(document), **others, **figure_files(document.drawn)})
