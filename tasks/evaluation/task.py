"""Prefect tasks: all models' answers to the held-out problems in one pass, and the tables of their accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any

import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.core import home
from tasks.core.digests import StageKey
from tasks.core.frames import DIVERGENCE, ITEMS, OWN_ANSWERS, RETENTION
from tasks.core.results import ModelRef, Progress, RunInfo, Soup, StageResult, Truncated
from tasks.core.sections import EvaluationSpec
from tasks.core.stages import ACCURACY, EVALUATE, KEPT_ACCURACY, SOUPS, TRUNCATION
from tasks.engines.vllm_installation import engine_identity
from tasks.evaluation.accuracy import accuracy_table, mcnemar_table
from tasks.evaluation.evaluate import Asked, evaluate_models
from tasks.evaluation.kept import with_accuracy
from tasks.evaluation.samples import differences_table, samples_table
from tasks.evaluation.soups import soups_frame
from tasks.evaluation.together import Shares, writer
from tasks.evaluation.truncation import truncation_frame
from tasks.grading import grade
from tasks.models.load import computed_on
from tasks.stage import Part, can_heal, log_file, run_stage, run_stages, state_of, states_of
from tasks.storage.store import open_store
from tasks.workers.devices import run_pinned, slots

INSTRUCTED = ("base-instructed", "teacher")
"""Those of `tasks.core.results.REFERENCE_METHODS` that are asked in the teacher's style."""


@task(task_run_name="evaluate {title}", cache_policy=NO_CACHE, retries=1, retry_condition_fn=can_heal)
def evaluate_task(
    title: str,
    infos: Sequence[RunInfo],
    base: ModelRef,
    problems: StageResult,
    spec: EvaluationSpec,
    trained: Sequence[StageResult | None],
) -> Any:
    """One result a model: artifact ``items.parquet`` (ITEMS). A model without ``trained`` is the base itself.

    The models that the cache lacks are asked together, the problems shared out among the devices; answers are kept as
    they come, so a pass that was killed goes on where it was.
    """
    store = open_store()
    folder = store.local(problems.ref) / "problems.parquet"
    asked = [
        Asked(info, store.local(result.ref) / "adapter" if result else None, info.method in INSTRUCTED)
        for info, result in zip(infos, trained, strict=True)
    ]
    parts = [
        Part(_key(one, base, problems, spec, result), f"evaluate {one.info.label}")
        for one, result in zip(asked, trained, strict=True)
    ]

    def compute(missing: Sequence[int], progress: Progress) -> Mapping[int, Any]:
        partials = [home.subfolder("partial") / parts[place].key.digest for place in missing]
        for partial in partials:
            partial.mkdir(exist_ok=True)
        count = len(slots())
        shared = Shares(progress, count)
        arguments = {
            "base": base.at(store.local(base.ref)),
            "asked": [asked[place] for place in missing],
            "partials": partials,
            "problems": folder,
            "spec": spec,
        }

        def share(i: int) -> Any:
            log = log_file(parts[missing[0]].key).with_suffix(f".{i}.log")
            return run_pinned(evaluate_models, {**arguments, "share": (i, count)}, log=log, progress=shared.of(i))

        with ThreadPoolExecutor(count) as pool:
            # Prefect knows a task's run by context, which a thread does not inherit.
            waiting = [pool.submit(copy_context().run, share, i) for i in range(count)]
            found = [future.result() for future in waiting]
        return {
            place: writer(partial, folder, spec, found[0]["too_long"][i], [one["unparsed_golds"][i] for one in found])
            for i, (place, partial) in enumerate(zip(missing, partials, strict=True))
        }

    return states_of(run_stages(parts, f"evaluate {title}", compute))


def _key(
    asked: Asked, base: ModelRef, problems: StageResult, spec: EvaluationSpec, trained: StageResult | None
) -> StageKey:
    info = asked.info
    settings = {
        "base": base.identity,
        "run": [info.run, info.method, info.seed, info.data_seed, info.lr],
        "engine": engine_identity(spec.engine),
        "max_new_tokens": spec.max_new_tokens,
        "sampled": [spec.samples, spec.temperature, spec.seed] if spec.samples else [],
        "instructed": asked.instructed,
        "grader": grade.GRADER,
        "device": computed_on(slots()[0].kind, open_store().local(base.ref) / base.folder),
    }
    inputs = {"problems": problems.ref.sha256, "adapter": trained.ref.sha256 if trained else ""}
    return EVALUATE.key(inputs, settings)


@task(task_run_name="accuracy", cache_policy=NO_CACHE)
def accuracy_task(answers: list[StageResult]) -> Any:
    """Artifact: ``items``, ``accuracy`` and ``mcnemar`` (parquet) over every model of the study, the base first.

    Where answers were sampled beside the greedy ones, ``samples`` and ``differences`` too.
    """
    inputs = {str(i): answer.ref.sha256 for i, answer in enumerate(answers)}
    key = ACCURACY.key(inputs, {"votes": grade.GRADER})
    store = open_store()

    def compute(out: Path, _: Any) -> dict[str, Any]:
        items = pl.concat([pl.read_parquet(store.local(answer.ref) / "items.parquet") for answer in answers])
        tables = {"items": items, "accuracy": accuracy_table(items), "mcnemar": mcnemar_table(items)}
        if most := int(items["sample"].max()):  # type: ignore[arg-type]
            ks = [2**i for i in range(most.bit_length())]  # 1, 2, 4, ... and all
            tables["samples"] = samples_table(items, sorted({*ks, most}), seed=0)
            tables["differences"] = differences_table(items, seed=0)
        for name, frame in tables.items():
            frame.write_parquet(out / f"{name}.parquet")
        return {"models": len(answers), "items": items.height}

    return state_of(run_stage(key, "accuracy", compute))


@task(task_run_name="truncation", cache_policy=NO_CACHE)
def truncation_task(
    parts: Sequence[Truncated],
    rank: int,
    answers: Sequence[StageResult],
    truncated: Sequence[StageResult],
    functions: Sequence[StageResult],
) -> Any:
    """Artifact: ``truncation.parquet`` (TRUNCATION) of the ``parts``.

    ``answers``: of the base and the whole updates, among others; ``truncated``: of the parts; ``functions``: artifacts
    with ``divergence.parquet``, none where it was not measured.
    """
    results = [*answers, *truncated, *functions]
    inputs = {str(i): result.ref.sha256 for i, result in enumerate(results)}
    names = [[one.of.run, one.of.method, one.of.seed, one.of.data_seed, one.of.lr, one.part, one.k] for one in parts]
    key = TRUNCATION.key(inputs, {"parts": names, "rank": rank})
    store = open_store()

    def compute(out: Path, _: Progress) -> dict[str, Any]:
        items = [pl.read_parquet(store.local(one.ref) / "items.parquet") for one in (*answers, *truncated)]
        far = [pl.read_parquet(store.local(one.ref) / "divergence.parquet") for one in functions]
        frame = truncation_frame(parts, rank, pl.concat(items), pl.concat([pl.DataFrame(schema=DIVERGENCE), *far]))
        frame.write_parquet(out / "truncation.parquet")
        return {"models": len(parts)}

    return state_of(run_stage(key, "truncation", compute))


@task(task_run_name="accuracy at kept steps", cache_policy=NO_CACHE)
def kept_accuracy_task(
    trajectories: Sequence[StageResult], answers: Sequence[StageResult], asked: Sequence[StageResult]
) -> Any:
    """Artifact: ``trajectories.parquet`` (TRAJECTORIES), with accuracies. ``answers``: of the whole updates, among
    others; ``asked``: of the adapters on the way."""
    results = [*trajectories, *answers, *asked]
    key = KEPT_ACCURACY.key({str(i): result.ref.sha256 for i, result in enumerate(results)}, {})
    store = open_store()

    def compute(out: Path, _: Progress) -> dict[str, Any]:
        paths = [pl.read_parquet(store.local(one.ref) / "trajectories.parquet") for one in trajectories]
        items = [pl.read_parquet(store.local(one.ref) / "items.parquet") for one in (*answers, *asked)]
        with_accuracy(pl.concat(paths), pl.concat(items)).write_parquet(out / "trajectories.parquet")
        return {"models": len(asked)}

    return state_of(run_stage(key, "accuracy at kept steps", compute))


@task(task_run_name="soups", cache_policy=NO_CACHE)
def soups_task(
    soups: Sequence[Soup],
    answers: Sequence[StageResult],
    asked: Sequence[StageResult],
    retention: Sequence[StageResult],
) -> Any:
    """Artifact: ``soups.parquet`` (SOUPS) of ``soups``.

    ``answers``: of the base and the single updates, among others; ``asked``: of the soups; ``retention``: artifacts
    with ``own_answers.parquet`` and ``retention.parquet`` of both, none where it was not measured.
    """
    results = [*answers, *asked, *retention]
    inputs = {str(i): result.ref.sha256 for i, result in enumerate(results)}
    names = [[soup.name, [info.run for info in soup.of], soup.weight] for soup in soups]
    store = open_store()

    def joined(found: Sequence[StageResult], name: str, schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
        frames = [pl.read_parquet(store.local(one.ref) / f"{name}.parquet") for one in found]
        return pl.concat([pl.DataFrame(schema=dict(schema)), *frames])

    def compute(out: Path, _: Progress) -> dict[str, Any]:
        own, kept = joined(retention, "own_answers", OWN_ANSWERS), joined(retention, "retention", RETENTION)
        items = joined([*answers, *asked], "items", ITEMS)
        soups_frame(soups, items, own, kept).write_parquet(out / "soups.parquet")
        return {"soups": len(soups)}

    return state_of(run_stage(SOUPS.key(inputs, {"soups": names}), "soups", compute))
