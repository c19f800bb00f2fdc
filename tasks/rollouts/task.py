"""Prefect tasks: sample the rollouts of a teacher, or take in those that somebody else made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from filelock import FileLock
from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.core import home
from tasks.core.results import ModelRef, StageResult
from tasks.core.rows import rows_digest
from tasks.core.sections import RolloutSpec
from tasks.core.small_files import expanded
from tasks.core.stages import ROLLOUTS
from tasks.rollouts.own import own_rollouts, taught_rollouts
from tasks.rollouts.prompts import chosen_prompts, prompts_key, split_prompts
from tasks.rollouts.sample import (
    sample_completions,
    sample_world,
    untruncated_key,
    without_truncated_world,
    world_rollouts_key,
)
from tasks.rollouts.teacher import completions_key, journal_file, teacher_folder
from tasks.stage import after, can_heal, log_file, run_stage, state_of
from tasks.storage.store import open_store
from tasks.workers.devices import run_pinned, run_unpinned


@task(task_run_name="rollouts K={spec.k}", cache_policy=NO_CACHE, retries=1, retry_condition_fn=can_heal)
def sample_task(spec: RolloutSpec, pretrained: StageResult, problems: StageResult) -> Any:
    """Artifact: ``rollouts.parquet`` (ROLLOUTS), sampled from the embedded teacher."""
    store = open_store()
    key = world_rollouts_key(spec, pretrained.ref.sha256, problems.ref.sha256)
    journal = home.subfolder("partial") / f"{key.digest}.jsonl"
    name = f"rollouts K={spec.k}"
    world = store.local(pretrained.ref)
    arguments = {"teacher": world / "teacher", "student": world / "student", "spec": spec, "journal": journal}
    arguments["problems"] = store.local(problems.ref) / "problems.parquet"

    def compute(out: Path, progress: Any) -> Any:
        return run_pinned(sample_world, {**arguments, "out": out}, log=log_file(key), progress=progress)

    result = run_stage(key, name, compute)
    journal.unlink(missing_ok=True)
    if spec.truncated == "keep":
        return state_of(result)
    sampled = store.local(result.ref) / "rollouts.parquet"
    key, function = untruncated_key(result.ref.sha256), without_truncated_world
    return state_of(after(result, run_stage(key, name, lambda out, _: function(rollouts=sampled, out=out))))


@task(task_run_name="prompts", cache_policy=NO_CACHE)
def prompts_task(spec: RolloutSpec, holdout: float) -> Any:
    """Artifact: ``asked.parquet`` and ``heldout.parquet`` (PROBLEMS) out of ``rollouts.problems``."""
    loaded, chosen = chosen_prompts(spec)

    def compute(out: Path, progress: Any) -> Any:
        progress(0, 0, "")
        return split_prompts(loaded=loaded, chosen=chosen, holdout=holdout, out=out)

    return state_of(run_stage(prompts_key(chosen, holdout), "prompts", compute))


@task(task_run_name="completions K={spec.k}", cache_policy=NO_CACHE, retries=1, retry_condition_fn=can_heal)
def completions_task(spec: RolloutSpec, prompts: StageResult, instruction: str | None = None) -> Any:
    """Artifact: ``completions.parquet`` (COMPLETIONS) of the user's teacher. An endpoint takes no device slot.

    What an endpoint said stays in its journal: it was paid for, and another K or other problems find it there.
    """
    folder = teacher_folder(spec)
    key = completions_key(spec, prompts.ref.sha256, folder, instruction)
    journal = journal_file(spec, folder)
    problems = open_store().local(prompts.ref) / "asked.parquet"
    arguments: dict[str, Any] = {"problems": problems, "teacher": folder, "spec": spec, "journal": journal}
    arguments["instruction"] = instruction

    def compute(out: Path, progress: Any) -> Any:
        run = run_unpinned if folder is None else run_pinned
        with FileLock(f"{journal}.lock", thread_local=False):  # another study may be asking the same teacher
            summary = run(sample_completions, {**arguments, "out": out}, log=log_file(key), progress=progress)
            if folder is not None:
                journal.unlink(missing_ok=True)
        return summary

    return state_of(run_stage(key, f"completions K={spec.k}", compute))


@task(task_run_name="rollouts", cache_policy=NO_CACHE, retries=1, retry_condition_fn=can_heal)
def own_rollouts_task(
    spec: RolloutSpec, holdout: float, base: ModelRef, prompts: StageResult | None, completions: StageResult | None
) -> Any:
    """Artifact: ``rollouts.parquet`` (ROLLOUTS), ``heldout.parquet``: from the user's file or teacher, for the base."""
    store = open_store()
    settings: dict[str, Any] = {"base": base.identity, "truncated": spec.truncated}
    arguments: dict[str, Any] = {
        "base": base.at(store.local(base.ref)),
        "truncated": spec.truncated,
    }
    if prompts is not None and completions is not None:
        function: Any = taught_rollouts
        inputs = {"prompts": prompts.ref.sha256, "completions": completions.ref.sha256}
        arguments["completions"] = store.local(completions.ref)
        arguments["heldout"] = store.local(prompts.ref) / "heldout.parquet"
    else:
        assert spec.file is not None
        function, file = own_rollouts, expanded(spec.file)
        inputs = {"file": rows_digest(file)}
        settings |= {"holdout": holdout} | ({"fields": spec.columns} if spec.fields else {})
        arguments |= {"file": file, "holdout": holdout, "fields": spec.columns}
    key = ROLLOUTS.key(inputs, settings)

    def compute(out: Path, progress: Any) -> Any:
        return run_pinned(function, {**arguments, "out": out}, log=log_file(key), progress=progress)

    return state_of(run_stage(key, "rollouts from file" if completions is None else "rollouts", compute))
