"""Prefect tasks: pretrain the synthetic task's student and teacher; dequantise a base that is a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.core.results import ArtifactRef, StageResult
from tasks.core.sections import TinySpec
from tasks.models.dequantise import dequantise, dequantise_key
from tasks.models.tiny.model import pretrain, pretrain_key
from tasks.stage import can_heal, log_file, run_stage, state_of
from tasks.workers.devices import run_pinned, run_unpinned, slots


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


@task(task_run_name="dequantise", cache_policy=NO_CACHE, retries=1, retry_condition_fn=can_heal)
def dequantise_task(gguf: ArtifactRef) -> Any:
    """Artifact: the Hugging Face directory of a GGUF file (`tasks.models.dequantise.gguf_reference`) in bfloat16."""
    key, file = dequantise_key(gguf.sha256), Path(gguf.uri)
    result: StageResult = run_stage(
        key,
        f"dequantise {file.name}",
        lambda staging, progress: run_unpinned(
            dequantise, {"file": file, "out": staging, "sha256": gguf.sha256}, log=log_file(key), progress=progress
        ),
    )
    return state_of(result)
