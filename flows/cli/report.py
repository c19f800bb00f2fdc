"""``colinear report``: several studies, or the cells of a sweep, on one page."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path


def run(sources: Sequence[str], folder: str | None, *, across_studies: bool) -> int:
    """Join finished studies."""
    from rich.console import Console

    from flows.cli.commands import quiet
    from flows.many_studies import across, locate
    from tasks.core import home
    from tasks.core.visible import dated_folder
    from tasks.reporting.files import check_out
    from tasks.reporting.many.joined import join
    from tasks.reporting.many.studies import read_studies
    from tasks.reporting.many.write import write_many

    quiet()
    began = time.monotonic()
    out = Path(folder) if folder else dated_folder("report")
    check_out(out)
    console = Console(soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="report-", dir=home.subfolder("staging")) as scratch:
        studies = read_studies(locate(sources, Path(scratch)))
    many = join(studies)
    console.print(
        f"[bold]colinear report[/] {len(studies)} studies, {len(many.distinct)} distinct trainings", highlight=False
    )
    if across_studies:
        with console.status("comparing adapters across studies"):
            measured, why = across(many)
    else:
        measured, why = None, "Trainings of different studies were not compared: --no-across."
    page, *_ = write_many(replace(many, measured=measured, why=why), out)
    for line in _said(page.parent):
        console.print(line, highlight=False, markup=False)
    console.print(f"\n{time.monotonic() - began:.0f} s\nreport: {page}", highlight=False, markup=False)
    return 0


def _said(folder: Path) -> list[str]:
    """Warnings and headline of the page, for the terminal."""
    import json

    record = json.loads((folder / "many.json").read_text(encoding="utf-8"))
    said = (*record["headline"], *record["answers"])
    return ["", *(f"! {text}" for text in record["warnings"]), *(f"- {text}" for text in said)]
