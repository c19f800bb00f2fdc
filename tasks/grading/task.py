"""Prefect task: reward every rollout."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.core.results import StageResult
from tasks.grading.rollouts import grade_key, grade_rollouts
from tasks.stage import can_heal, log_file, run_stage, state_of
from tasks.storage.store import open_store
from tasks.workers.devices import run_pinned


@task(task_run_name="grade", cache_policy=NO_CACHE, retries=1, retry_condition_fn=can_heal)
def grade_task(rollouts: StageResult) -> Any:
    """Artifact: ``rollouts.parquet`` (GRADED) and ``disagreements.parquet``."""
    key = grade_key(rollouts.ref.sha256)
    file = open_store().local(rollouts.ref) / "rollouts.parquet"
    return state_of(
        run_stage(
            key,
            "grade",
            lambda out, progress: run_pinned(
                grade_rollouts, {"rollouts": file, "out": out}, log=log_file(key), progress=progress
            ),
        )
    )
