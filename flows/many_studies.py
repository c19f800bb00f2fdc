"""The studies of one page: found by folder or MLflow run, and the geometry of their adapters across studies."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.errors import InputError
from tasks.core.results import Progress, no_progress

if TYPE_CHECKING:
    import polars as pl

    from tasks.reporting.many.joined import Many, Training

KS = (1,)
"""Subspace dimensions beside the full rank: the page shows the first direction only."""


def locate(sources: Sequence[str], scratch: Path) -> list[tuple[str, Path]]:
    """(source, folder) of each study: a folder, its report.html, or the MLflow run of a finished study.

    Files of a run are downloaded into ``scratch``. Raises `InputError`.
    """
    return [(source, _locate(source, scratch)) for source in sources]


def _locate(source: str, scratch: Path) -> Path:
    from tasks.reporting.many.studies import study_folder

    run_id = source.removeprefix("runs:/").rstrip("/")
    named = len(run_id) == 32 and all(letter in "0123456789abcdef" for letter in run_id)
    if not source.startswith("runs:/") and (Path(source).exists() or not named):
        return study_folder(Path(source))
    if "/" in run_id or not run_id:
        raise InputError(f"{source}: expected runs:/ID of a study's parent run, without a path")
    return _of_run(source, run_id, scratch)


def _of_run(source: str, run_id: str, scratch: Path) -> Path:
    from tasks.storage.store import open_store

    store = open_store()
    run = store.run(run_id)
    kind, status = run.data.tags.get("kind"), run.info.status
    if kind != "study":
        parent = run.data.tags.get("mlflow.parentRunId")
        hint = f"; its study is runs:/{parent}" if parent else ""
        raise InputError(f"{source}: a run of kind {kind or 'unknown'}, not a study's parent run{hint}")
    if status != "FINISHED":
        raise InputError(f"{source}: the study is {status}, not FINISHED; run it again, which goes on where it stopped")
    for name in store.names(run_id):
        if name.endswith((".json", ".parquet")):
            store.download(f"runs:/{run_id}/{name}", scratch / run_id)
    if not (scratch / run_id).is_dir():
        raise InputError(f"{source}: the run holds no study.json; run the study again")
    return scratch / run_id


def across(many: Many, progress: Progress = no_progress) -> tuple[pl.DataFrame | None, str]:
    """Geometry between trainings of one method in different studies, and a sentence on what was not measured.

    Only trainings on one base are compared, and only adapters that are at hand: those that the studies recorded in the
    MLflow store of this project. Pairs that a study measured itself are left out. The frame (PAIR_METRICS_FRAME, None
    where nothing was measured) calls the runs by the numbers of their trainings.
    """
    import polars as pl

    groups = [group for group in _groups(many) if len({one.study for one in group}) > 1]
    if not groups:
        return None, "Across studies nothing was measured: no method was trained in two of them on one base."
    elsewhere = sorted({many.studies[one.study].label for group in groups for one in group if not _ours(many, one)})
    at_hand = [[one for one in group if _ours(many, one)] for group in groups]
    at_hand = [group for group in at_hand if len({one.study for one in group}) > 1]
    frames, lost = [], []
    for done, group in enumerate(at_hand):
        progress(done, len(at_hand), group[0].info.method)
        try:
            frames.append(_compare(many, group))
        except InputError as error:
            lost.append((group[0].info.method, error))
    why = []
    if elsewhere:
        why.append(
            f"Adapters of {', '.join(elsewhere)} are not in this project's MLflow store, so they were not compared "
            "across studies."
        )
    if lost:
        why.append(f"Not compared across studies: {', '.join(method for method, _ in lost)} ({lost[0][1]}).")
    return (pl.concat(frames) if frames else None), " ".join(why)


def _groups(many: Many) -> list[list[Training]]:
    """Trainings of one method on one base."""
    found: dict[tuple[int, str], list[Training]] = {}
    for one in many.distinct:
        found.setdefault((one.base, one.info.method), []).append(one)
    return list(found.values())


def _compare(many: Many, group: Sequence[Training]) -> pl.DataFrame:
    from dataclasses import replace

    from tasks.geometry.compare import Named, compare
    from tasks.storage.recorded import fetch
    from tasks.storage.store import FOLDER

    with tempfile.TemporaryDirectory(prefix="colinear-") as scratch:
        named = []
        for one in group:
            run_id = _run_id(many, one)
            assert run_id is not None
            named.append(
                Named(
                    replace(one.info, run=str(one.number)), fetch(f"{run_id}/{FOLDER}/adapter", Path(scratch)), run_id
                )
            )
        return compare(named, KS, scratch=Path(scratch)).pair_metrics


def _run_id(many: Many, one: Training) -> str | None:
    recorded = many.studies[one.study].record.get("mlflow") or {}
    return recorded.get(f"train {one.info.label}")


def _ours(many: Many, one: Training) -> bool:
    """Whether the adapter was recorded in the store that this process would open; opening one would make it."""
    from tasks.core.secrets import without_password
    from tasks.storage.state import tracking_uri

    recorded = (many.studies[one.study].record.get("mlflow") or {}).get("uri")
    own = tracking_uri()
    missing = own.startswith("sqlite:///") and not Path(own.removeprefix("sqlite:///")).exists()
    return recorded == without_password(own) and not missing and _run_id(many, one) is not None
