"""Prefect tasks: sample the rollouts, or take in those that somebody else made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.contracts import ModelRef, StageResult
from tasks.devices import run_pinned
from tasks.digests import file_digest
from tasks.rollouts.own import own_rollouts
from tasks.rollouts.sample import sample_rollouts
from tasks.specs import RolloutSpec
from tasks.stage import can_heal, log_file, run_stage, state_of
from tasks.store import StageKey, open_store


@task(task_run_name="rollouts K={spec.k}", cache_policy=NO_CACHE, retries=1, retry_condition_fn=can_heal)
def sample_task(spec: RolloutSpec, pretrained: StageResult, problems: StageResult) -> Any:
    """Artifact: ``rollouts.parquet`` (ROLLOUTS), sampled from the embedded teacher."""
    store = open_store()
    settings = spec.model_dump(mode="json", exclude={"file", "holdout", "prompts"})
    key = StageKey("rollouts", 1, {"world": pretrained.ref.sha256, "problems": problems.ref.sha256}, settings)
    world = store.local(pretrained.ref)
    arguments = {
        "teacher": world / "teacher",
        "student": world / "student",
        "problems": store.local(problems.ref) / "problems.parquet",
        "spec": spec,
    }
    return state_of(
        run_stage(
            key,
            f"rollouts K={spec.k}",
            lambda out, progress: run_pinned(
                sample_rollouts, {**arguments, "out": out}, log=log_file(key), progress=progress
            ),
        )
    )


@task(task_run_name="rollouts from file", cache_policy=NO_CACHE, retries=1, retry_condition_fn=can_heal)
def own_rollouts_task(spec: RolloutSpec, holdout: float, base: ModelRef) -> Any:
    """Artifact: ``rollouts.parquet`` (ROLLOUTS) and ``heldout.parquet`` from the user's file."""
    assert spec.file is not None
    file = Path(spec.file).expanduser()
    key = StageKey("rollouts", 1, {"file": file_digest(file)}, {"base": base.identity, "holdout": holdout})
    arguments = {
        "file": file,
        "base": open_store().local(base.ref) / base.folder,
        "prompt_template": base.prompt_template,
        "pad_token": base.pad_token,
        "max_length": base.max_length,
        "holdout": holdout,
    }
    return state_of(
        run_stage(
            key,
            "rollouts from file",
            lambda out, progress: run_pinned(
                own_rollouts, {**arguments, "out": out}, log=log_file(key), progress=progress
            ),
        )
    )
