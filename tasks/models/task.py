"""Prefect task: pretrain the embedded world's student and teacher."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.contracts import StageResult
from tasks.devices import run_pinned, slots
from tasks.models.tiny import pretrain, pretrain_key
from tasks.specs import TinySpec
from tasks.stage import can_heal, log_file, run_stage, state_of


@task(task_run_name="pretrain seed={spec.seed}", cache_policy=NO_CACHE, retries=1, retry_condition_fn=can_heal)
def pretrain_task(spec: TinySpec) -> Any:
    """Artifact: ``student/``, ``teacher/`` (Hugging Face directories), ``pretrain.json``."""
    processes = 1 if slots()[0].kind == "gpu" else 2
    key = pretrain_key(spec)
    name = f"pretrain seed={spec.seed}"
    result: StageResult = run_stage(
        key,
        name,
        lambda staging, progress: run_pinned(
            pretrain, {"spec": spec, "out": staging}, log=log_file(key), progress=progress, processes=processes
        ),
    )
    return state_of(result)
