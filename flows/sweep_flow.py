"""A sweep: one study a cell over one set of rollouts -> paths between seeds -> one page over all cells."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import wait
from prefect.task_runners import ThreadPoolTaskRunner

from flows.form import titled
from flows.record import first_failure
from flows.seed_paths import SeedPaths, distinct, neighbours, seed_paths_flow
from flows.servers.prefect_server import wait_until_there
from flows.study_flow import study_flow
from flows.sweep_page import write_page
from flows.sweep_record import CellOutcome, every_diverged, recorded_sweep, write_sweep
from tasks.core.clock import now
from tasks.core.errors import InputError, StageError
from tasks.core.events import Event, emit
from tasks.core.sections import PathSpec
from tasks.core.visible import dated_folder
from tasks.planning.preflight import preflight
from tasks.reporting.files import check_out
from tasks.settings.study import StudySpec, build
from tasks.settings.sweep_presets import sweep_preset
from tasks.settings.sweeps import Cell, SweepSpec, build_sweep, cells
from tasks.training.log import Diverged, divergence
from tasks.workers.devices import Stopped

STUDY, CELLS = sweep_preset("tiny-sweep")
DEFAULT, DEFAULT_SWEEP = build(STUDY), build_sweep(CELLS)

CELLS_AT_ONCE: Any = ThreadPoolTaskRunner(max_workers=2)
"""Device slots bound the work; a second cell uses those that the end of the first leaves free."""


@dataclass(frozen=True)
class SweepOutcome:
    """Where a finished sweep is. ``page`` is None where fewer than two cells have anything to join."""

    out: str
    page: str | None
    sweep_run: str
    flow_run: str
    flow_runs: tuple[str, ...]
    counts: dict[str, int]
    wall_seconds: float


@flow(name="sweep", flow_run_name="sweep {spec.name}", task_runner=CELLS_AT_ONCE, validate_parameters=True)
def sweep_flow(
    spec: Annotated[StudySpec, titled("Settings that all cells share")] = DEFAULT,
    sweep: Annotated[SweepSpec, titled("Cells")] = DEFAULT_SWEEP,
    out: Annotated[str | None, titled("Folder of the page")] = None,
) -> SweepOutcome:
    """One study for each cell of a grid of seeds, learning rates and other settings, and one page over all of them.

    Args:
        spec: What all cells share; they have one base and one set of rollouts.
        sweep: In what the cells differ.
        out: Folder of the page and of the cells' studies; by default one under ``runs/``.
    """
    began = now()
    folder = Path(out) if out else dated_folder(f"{spec.name}-sweep")
    chosen = check_cells(spec, sweep, folder)
    with recorded_sweep(spec, sweep, chosen) as run:
        futures = [cell_task.submit(cell, str(folder / "cells" / cell.folder), run) for cell in chosen]
        wait(futures)
        outcomes = [_outcome(cell, future) for cell, future in zip(chosen, futures, strict=True)]
        written = write_sweep(run, spec, sweep, folder, outcomes)
        paths = _paths(spec, sweep, outcomes)
        page = write_page(folder, outcomes, written, paths)
        failed = [outcome for outcome in outcomes if outcome.status == "failed"]
        if failed:
            raise StageError(
                f"{len(failed)} of {len(chosen)} cells failed, {failed[0].cell.label} with: {failed[0].error}"
                + (f"; page of the others: {page}" if page else "")
            )
    return SweepOutcome(
        out=str(folder),
        page=page,
        sweep_run=run,
        flow_run=str(runtime.flow_run.id or ""),
        flow_runs=tuple(outcome.study.flow_run for outcome in outcomes if outcome.study),
        counts={**written["counts"], **_counted(paths)},
        wall_seconds=now() - began,
    )


def check_cells(spec: StudySpec, sweep: SweepSpec, out: Path) -> list[Cell]:
    """Every cell, refused before any work where one cannot work. Raises `InputError` naming the cell and the field."""
    check_out(out)
    chosen = cells(spec, sweep)
    seen = set()
    for cell in chosen:  # seeds and rates refuse nothing more: each kind of cell is looked at once
        plain = cell.spec.model_copy(
            update={"name": "", "seed": 0, "data_seed": 0, "train": cell.spec.train.model_copy(update={"lr": 0.0})}
        ).model_dump_json()
        if plain in seen:
            continue
        seen.add(plain)
        try:
            preflight(cell.spec)
        except InputError as error:
            raise InputError(f"cell {cell.label}: {error}") from None
    return chosen


@task(task_run_name="cell {cell.label}", cache_policy=NO_CACHE)
def cell_task(cell: Cell, out: str, sweep_run: str) -> CellOutcome:
    """One study. That every method of it diverged is a result; anything else that ends it fails this cell only."""
    name = f"cell {cell.label}"
    began = time.monotonic()
    emit(Event("start", name))
    wait_until_there()
    try:
        study = study_flow(cell.spec, out, sweep_run)
    except Diverged as error:
        return every_diverged(cell, divergence(str(error)))
    except Exception as error:
        emit(Event("failed", name, note=" ".join(str(error).split())))
        raise
    emit(Event("done", name, seconds=time.monotonic() - began))
    return CellOutcome(cell, "done", study, study.diverged)


def _outcome(cell: Cell, future: Any) -> CellOutcome:
    failure = first_failure([future])
    if failure is None:
        found: CellOutcome = future.result()
        return found
    if isinstance(failure, Stopped) or not isinstance(failure, Exception):
        raise failure
    return CellOutcome(cell, "failed", error=" ".join(str(failure).split()) or type(failure).__name__)


def _paths(spec: StudySpec, sweep: SweepSpec, outcomes: Sequence[CellOutcome]) -> SeedPaths | None:
    pairs = neighbours(distinct(outcomes)) if sweep.path_problems else []
    if not pairs:
        return None
    wait_until_there()
    alphas = tuple(sorted({*spec.paths.alphas, 0.5}))
    return seed_paths_flow(pairs, PathSpec(n=sweep.path_problems, alphas=alphas, readings=("solution",), matched=False))


def _counted(paths: SeedPaths | None) -> dict[str, int]:
    results = paths.results if paths else ()
    return {"path_computed": sum(not one.hit for one in results), "path_hits": sum(one.hit for one in results)}
