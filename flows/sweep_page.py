"""The page over a sweep's cells: joined, compared across cells, written, and put where people look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact

from flows.many_studies import across
from flows.seed_paths import SeedPaths
from flows.sweep_record import SWEEP, CellOutcome
from tasks.core.errors import InputError, StageError
from tasks.core.events import Event, emit
from tasks.reporting.many.frames import paths_frame
from tasks.reporting.many.joined import join
from tasks.reporting.many.studies import FEWEST, read_studies
from tasks.reporting.many.sweep import Sweep
from tasks.reporting.many.write import write_many
from tasks.reporting.publish.mlflow_record import describe_by_report
from tasks.reporting.publish.published import top
from tasks.storage.store import open_store


def write_page(
    out: Path, outcomes: Sequence[CellOutcome], record: Mapping[str, Any], paths: SeedPaths | None
) -> str | None:
    """The page's path; None where fewer than two cells have a study to join."""
    folders = [(outcome.cell.label, Path(outcome.study.page).parent) for outcome in outcomes if outcome.study]
    if len(folders) < FEWEST:
        return None
    emit(Event("start", "page of the sweep"))
    try:
        many = join(read_studies(folders))
    except InputError as error:  # two cells with equal results: a key that decides nothing
        raise StageError(f"the cells are done, but cannot be joined on one page: {error}") from None
    measured, why = across(many)
    frame = paths_frame(paths.pairs, paths.connectivity, paths.barriers) if paths else paths_frame((), None, None)
    sweep = Sweep(record["name"], record["cells"], frame)
    files = write_many(replace(many, measured=measured, why=why, sweep=sweep), out)
    open_store().log_files(record["mlflow"], [*files, out / SWEEP], out)
    describe_by_report(record["mlflow"], files[0])
    page = files[0].absolute()
    create_markdown_artifact(key="sweep", markdown=top(page.with_name("report.md").read_text(encoding="utf-8")))
    create_link_artifact(key="sweep-page", link=page.as_uri(), link_text="report.html")
    emit(Event("done", "page of the sweep"))
    return str(files[0])
