"""Prefect task: the problems of a study, and the proof that its held-out ones were seen nowhere else."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.core.results import StageResult
from tasks.core.rows import rows_digest
from tasks.core.sections import EvaluationSpec, RolloutSpec, TinySpec
from tasks.core.small_files import expanded
from tasks.core.stages import PROBLEMS
from tasks.problems.benchmarks import Loaded, frame_digest, open_benchmark, open_heldout
from tasks.problems.own import own_problems
from tasks.problems.world import problem_sizes, problems_key, world_problems
from tasks.stage import run_stage, state_of
from tasks.storage.store import open_store


@task(task_run_name="problems", cache_policy=NO_CACHE)
def problems_task(tiny: TinySpec, rollouts: RolloutSpec, evaluation: EvaluationSpec, pretrained: StageResult) -> Any:
    """Artifact: ``problems.parquet`` (PROBLEMS) of the synthetic task; the summary counts overlaps."""
    sizes = problem_sizes(rollouts, evaluation)
    key = problems_key(tiny, sizes, pretrained.ref.sha256)
    corpus = open_store().local(pretrained.ref)
    return state_of(
        run_stage(key, "problems", lambda out, _: world_problems(spec=tiny, sizes=sizes, corpus=corpus, out=out))
    )


@task(task_run_name="problems", cache_policy=NO_CACHE)
def own_problems_task(evaluation: EvaluationSpec, rollouts: StageResult, instruction: str | None = None) -> Any:
    """Artifact: ``problems.parquet``: ``evaluation.problems``, or what the rollouts held out, and the benchmarks."""
    fields = {str(name): column for name, column in evaluation.fields.items()}
    benchmarks = [open_benchmark(name, fields) for name in evaluation.benchmarks]
    given = open_heldout(evaluation.problems, fields) if evaluation.problems else None
    inputs = {"rollouts": rollouts.ref.sha256, "file": _heldout_digest(evaluation.problems, given)}
    inputs |= {f"benchmark {loaded.name}": frame_digest(loaded.problems.frame) for loaded in benchmarks}
    asked = {"instruction": instruction} if instruction else {}
    key = PROBLEMS.key(inputs, {"n": evaluation.n, "fields": fields} | asked)
    folder = open_store().local(rollouts.ref)
    return state_of(
        run_stage(
            key,
            "problems",
            lambda out, _: own_problems(
                given=given,
                rollouts=folder,
                n=evaluation.n,
                out=out,
                benchmarks=benchmarks,
                instruction=instruction,
            ),
        )
    )


def _heldout_digest(name: str | None, given: Loaded | None) -> str:
    """Of a file its rows' digest, of what has a name that of its problems."""
    if name is None or given is None:
        return ""
    path = expanded(name)
    return rows_digest(path) if path.exists() else frame_digest(given.problems.frame)
