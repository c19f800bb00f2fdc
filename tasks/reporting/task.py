"""Prefect task: join everything into the study's folder, its MLflow run and its Prefect artifacts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import polars as pl
from prefect import get_run_logger, task
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)
from prefect.cache_policies import NO_CACHE

from tasks.core.events import Event, emit
from tasks.core.frames import PAIR_METRICS_FRAME, SPECTRA
from tasks.core.results import RunInfo, StageResult
from tasks.reporting.publish.mlflow_record import record_study
from tasks.reporting.publish.published import HEAT_MAP, data_uri, descriptions, table_rows, top
from tasks.reporting.publish.write import write_report
from tasks.reporting.tables.record import rollout_record
from tasks.reporting.views.study import SCHEMAS, Study
from tasks.storage.store import open_store

_OPTIONAL = [one.name for one in fields(Study) if one.name in SCHEMAS and one.default_factory is not MISSING]
"""Frames of `Study` that a study may do without."""


@task(task_run_name="report", cache_policy=NO_CACHE)
def report_task(
    out: str,
    study: str,
    record: dict[str, Any],
    scored: StageResult,
    graded: StageResult,
    problems: StageResult,
    trained: dict[RunInfo, StageResult],
    pairs: list[StageResult],
    spectra: list[StageResult],
    functions: Sequence[StageResult] = (),
) -> str:
    """Write the folder ``out`` and return its page. ``study``: the parent MLflow run; ``record``: settings, versions,
    stages and checks (see `tasks.reporting.publish.record`). ``functions``: artifacts with any of the frames
    `_OPTIONAL`; one that none of them has was not measured."""
    began = time.perf_counter()
    emit(Event("start", "report"))
    store = open_store()
    accuracy = store.local(scored.ref)
    read = Study(
        runs=list(trained),
        accuracy=pl.read_parquet(accuracy / "accuracy.parquet"),
        mcnemar=pl.read_parquet(accuracy / "mcnemar.parquet"),
        items=pl.read_parquet(accuracy / "items.parquet"),
        pair_metrics=_joined(pairs, "pair_metrics.parquet", PAIR_METRICS_FRAME),
        spectra=_joined(spectra, "spectra.parquet", SPECTRA),
        training=_training(trained),
        rollouts={**graded.summary, **record["rollouts"]},
        record={**record["study"], "rollouts_seen": _rollouts_seen(graded)},
        **{name: _found([scored, *functions], name) for name in _OPTIONAL},
    )
    read = read.judged()
    files = write_report(read, Path(out))
    record_study(read, files, study, trained, graded, problems, get_run_logger().warning)
    _prefect_artifacts(read, files)
    emit(Event("done", "report", seconds=time.perf_counter() - began))
    return str(files[0])


def _joined(results: list[StageResult], name: str, schema: dict[str, pl.DataType]) -> pl.DataFrame:
    frames = [pl.read_parquet(open_store().local(result.ref) / name) for result in results]
    return pl.concat(frames) if frames else pl.DataFrame(schema=schema)


def _found(results: Sequence[StageResult], name: str) -> pl.DataFrame:
    """The frame of that name in every artifact that has one; empty where none has."""
    paths = [open_store().local(result.ref) / f"{name}.parquet" for result in results]
    frames = [pl.read_parquet(path) for path in paths if path.is_file()]
    return pl.concat(frames) if frames else pl.DataFrame(schema=SCHEMAS[name])


def _rollouts_seen(graded: StageResult) -> dict[str, Any]:
    return rollout_record(pl.read_parquet(open_store().local(graded.ref) / "rollouts.parquet"))


def _training(trained: dict[RunInfo, StageResult]) -> pl.DataFrame:
    """Every run's log; a cached one may carry the name it had in another study, so the name is set here."""
    frames = [
        pl.read_parquet(open_store().local(result.ref) / "training.parquet").with_columns(run=pl.lit(info.run))
        for info, result in trained.items()
    ]
    return pl.concat(frames)


def _prefect_artifacts(study: Study, files: Sequence[Path]) -> None:
    """The same study, heat-map and text as in the folder."""
    page = files[0].absolute()
    described = descriptions(study)
    for key, description in described.items():
        file = files[0].parent / "tables" / f"{key}.csv"
        if file in files:
            create_table_artifact(key=key, table=table_rows(file), description=description)
    heat_map = files[0].parent / HEAT_MAP
    if heat_map in files:
        create_image_artifact(key="heat-map", image_url=data_uri(heat_map), description=described["cosines"])
    create_markdown_artifact(key="report", markdown=top(page.with_name("report.md").read_text(encoding="utf-8")))
    where = f"{page} on the machine that ran the study; a browser opens a file only from its address bar."
    also = f"MLflow run {study.record['mlflow']['study']} has it as well."
    create_link_artifact(key="report-page", link=page.as_uri(), link_text="report.html", description=f"{where} {also}")
