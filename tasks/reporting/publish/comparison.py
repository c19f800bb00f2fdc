"""Write the folder of a comparison of adapters: its page, the Markdown form, the frames and ``compare.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import polars as pl

from tasks.core.errors import InputError
from tasks.core.frames import ADAPTERS, PAIR_METRICS_FRAME, SPECTRA, UNSHARED, checked
from tasks.core.results import RunInfo
from tasks.reporting.files import json_text, parquet, write_files
from tasks.reporting.findings.comparison import Comparison
from tasks.reporting.publish.figure_files import figure_files
from tasks.reporting.publish.noise import noise_floor
from tasks.reporting.render.comparison_document import comparison_document
from tasks.reporting.render.html import render_html
from tasks.reporting.render.markdown import render_markdown
from tasks.reporting.views.pairs import geometry_of

SCHEMAS = {"pair_metrics": PAIR_METRICS_FRAME, "spectra": SPECTRA, "adapters": ADAPTERS, "unshared": UNSHARED}


def write_comparison(
    runs: Sequence[RunInfo], frames: Mapping[str, pl.DataFrame], notes: Sequence[str], reference: str, out: Path
) -> list[Path]:
    """Write the comparison of ``runs`` into ``out`` (made if need be) and return the paths, report.html first.

    ``frames``: pair_metrics, spectra, adapters, unshared, in the schemas of `tasks.core.frames`. Two runs of one
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
    data = {name: checked(frames[name], schema, name) for name, schema in SCHEMAS.items()}
    view = geometry_of(runs, data["pair_metrics"], runs[names.index(reference)])
    document = comparison_document(Comparison(view, **data), tuple(notes))
    record = {
        "reference": reference,
        "runs": [asdict(info) for info in runs],
        "adapters": data["adapters"].to_dicts(),
        "noise_floor": noise_floor(view),
        "warnings": document.findings.warnings,
        "headline": document.findings.sentences,
        "notes": notes,
    }
    contents = {
        "report.html": render_html(document).encode(),
        "report.md": render_markdown(document).encode(),
        "compare.json": json_text(record).encode(),
        **{f"{name}.parquet": parquet(frame) for name, frame in data.items()},
        **figure_files(document.drawn),
    }
    return write_files(out, contents)
