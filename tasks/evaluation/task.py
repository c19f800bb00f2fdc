"""Prefect task: one model's answers to the held-out problems."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.contracts import ModelRef, RunInfo, StageResult
from tasks.devices import run_pinned, slots
from tasks.evaluation.accuracy import accuracy_table, mcnemar_table
from tasks.evaluation.evaluate import evaluate_run
from tasks.grading import grade
from tasks.specs import EvaluationSpec
from tasks.stage import can_heal, log_file, run_stage, state_of
from tasks.store import StageKey, open_store


@task(task_run_name="evaluate {info.label}", cache_policy=NO_CACHE, retries=1, retry_condition_fn=can_heal)
def evaluate_task(
    info: RunInfo,
    base: ModelRef,
    problems: StageResult,
    spec: EvaluationSpec,
    trained: StageResult | None = None,
    instructed: bool = False,
) -> Any:
    """Artifact: ``items.parquet`` (ITEMS). Without ``trained`` the base itself answers."""
    store = open_store()
    inputs = {"problems": problems.ref.sha256, "adapter": trained.ref.sha256 if trained else ""}
    settings = {
        "base": base.identity,
        "run": [info.run, info.method, info.seed, info.data_seed, info.lr],
        "max_new_tokens": spec.max_new_tokens,
        "instructed": instructed,
        "grader": grade.GRADER,
        "device": slots()[0].kind,
    }
    key = StageKey("evaluate", 1, inputs, settings)
    arguments = {
        "base": store.local(base.ref) / base.folder,
        "adapter": store.local(trained.ref) / "adapter" if trained else None,
        "problems": store.local(problems.ref) / "problems.parquet",
        "info": info,
        "spec": spec,
        "prompt_template": base.prompt_template,
        "pad_token": base.pad_token,
        "max_length": base.max_length,
        "instructed": instructed,
    }
    return state_of(
        run_stage(
            key,
            f"evaluate {info.label}",
            lambda out, progress: run_pinned(
                evaluate_run, {**arguments, "out": out}, log=log_file(key), progress=progress
            ),
        )
    )


@task(task_run_name="accuracy", cache_policy=NO_CACHE)
def accuracy_task(answers: list[StageResult]) -> Any:
    """Artifact: ``items``, ``accuracy`` and ``mcnemar`` (parquet) over every model of the study, the base first."""
    key = StageKey("accuracy", 1, {str(i): answer.ref.sha256 for i, answer in enumerate(answers)}, {})
    store = open_store()

    def compute(out: Path, _: Any) -> dict[str, Any]:
        items = pl.concat([pl.read_parquet(store.local(answer.ref) / "items.parquet") for answer in answers])
        tables = {"items": items, "accuracy": accuracy_table(items), "mcnemar": mcnemar_table(items)}
        for name, frame in tables.items():
            frame.write_parquet(out / f"{name}.parquet")
        return {"models": len(answers), "items": items.height}

    return state_of(run_stage(key, "accuracy", compute))
