"""Prefect task: train one adapter. Its MLflow run is the study's child run of that method, live while it trains."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.core import home
from tasks.core.digests import StageKey
from tasks.core.errors import StageError
from tasks.core.events import Event, emit
from tasks.core.results import Kept, LocalTeacher, ModelRef, Progress, RunInfo, StageResult
from tasks.core.sections import GradientSpec, LoraSpec, TrainSpec, flatten
from tasks.core.stages import GRADIENTS, KEPT, REFERENCE_LOGPROBS, TRAIN
from tasks.methods import Method
from tasks.methods.common import chosen
from tasks.models.load import computed_on
from tasks.stage import Part, can_heal, log_file, run_stage, run_stages, state_of, states_of
from tasks.storage.recorded import method_tags
from tasks.storage.store import STUDIES, open_store
from tasks.training.gradients import measure_gradients
from tasks.training.kept import copy_kept, forget, is_kept
from tasks.training.live import LiveMetrics
from tasks.training.log import LOG, divergence
from tasks.training.reference import REFERENCE, rows_digest, rows_of, wanted, write_reference
from tasks.training.train import train_adapter
from tasks.workers.devices import OutOfMemory, run_pinned, slots

MOST_KILLED = 3
"""Workers of one training that the system may kill for memory; each next one holds half as much in a pass."""


@task(task_run_name="train {info.label}", cache_policy=NO_CACHE, retries=1, retry_condition_fn=can_heal)
def train_task(
    info: RunInfo,
    method: Method,
    train: TrainSpec,
    lora: LoraSpec,
    base: ModelRef,
    graded: StageResult,
    study: str,
    teacher: ModelRef | None = None,
) -> Any:
    """Artifact: ``adapter/`` (PEFT), ``training.parquet`` (TRAINING), ``stream.parquet``. ``study``: the parent run.
    ``teacher``: of a method that trains on its distribution.

    A method of pairs that reads stored log-probabilities has them computed first, as a task of their own, and the
    adapters of ``train.keep_steps`` are artifacts of one more: ``used`` has them all. A run that diverges raises
    `Diverged`, at once where it did before; its MLflow run has ``outcome = diverged`` and its losses.
    """
    store, device = open_store(), slots()[0].kind
    folder = store.local(base.ref) / base.folder
    arithmetic = computed_on(device, folder, train.precision)
    reference_key, reference = None, None
    if wanted(method, train, device):
        frame = pl.read_parquet(store.local(graded.ref) / "rollouts.parquet")
        rows = rows_of(chosen(method, frame, train.mask_truncated))
        reference_key = _reference_key(rows, train, base, graded, arithmetic)
        reference = reference_task(reference_key, rows, train, base, graded, return_state=True).result()
    settings = {
        "method": info.method,
        "hyper": method.model_dump(mode="json", exclude={"lr_ratio", "teacher"}),
        "train": train.identity,
        "lora": lora.model_dump(mode="json"),
        "seed": info.seed,
        "data_seed": info.data_seed,
        "lr": info.lr,
        "base": base.identity,
        "device": arithmetic,  # precision auto and mixed mean another one on a GPU
    }
    if teacher is not None:
        settings["teacher"] = teacher.identity
    # The reference by its key, not its bytes: one that was lost and computed again on a GPU may differ in the last bit.
    inputs = {"rollouts": graded.ref.sha256} | ({"reference": reference_key.digest} if reference_key else {})
    key = TRAIN.key(inputs, settings)
    name, tags, params = f"train {info.label}", method_tags(info), flatten(settings)
    run_ids: list[str] = []
    live: list[LiveMetrics] = []
    arguments: dict[str, Any] = {
        "base": folder,
        "rollouts": store.local(graded.ref) / "rollouts.parquet",
        "method": method,
        "train": train,
        "lora": lora,
        "info": info,
        "pad_token": base.pad_token,
        "reference": store.local(reference.ref) / REFERENCE if reference else None,
        "teacher": LocalTeacher(store.local(teacher.ref) / teacher.folder, base.turn is None) if teacher else None,
        "checkpoints": home.subfolder("checkpoints") / key.digest,
        "kept": home.subfolder("checkpoints") / f"{key.digest}.kept",
    }
    steps = method.kept(train)

    def compute(out: Path, progress: Progress) -> Mapping[str, Any]:
        live.append(metrics := LiveMetrics(run_ids[0], out / LOG, progress))
        metrics.refuse_known(key)

        def run(killed: int) -> dict[str, Any]:
            given = {**arguments, "out": out, "killed": killed}
            return dict(run_pinned(train_adapter, given, log=log_file(key), progress=metrics))

        try:
            return holding_less(run, name)
        except StageError as error:
            if divergence(str(error)):
                forget(arguments["kept"], steps)
            metrics.refuse_divergence(error)
            raise

    result = run_stage(
        key, name, compute, parent=study, experiment=STUDIES, tags=tags, params=params, on_run=run_ids.append,
        rows=lambda out: live[0].rest(out / "training.parquet"),
    )  # fmt: skip
    shutil.rmtree(arguments["checkpoints"], ignore_errors=True)  # what they were for is in the store
    used = [reference] if reference else []
    if steps:
        keys = {step: KEPT.key(inputs, {**settings, "step": step}) for step in steps}
        used += kept_task(info, keys, arguments, return_state=True).result()
    if result.hit:  # the study still gets a child run of its own, with the numbers, that points to the source
        child = store.open_run(
            name, parent=study, experiment=STUDIES, tags={**tags, "cache.source_run": result.ref.run_id}, params=params
        )
        history = pl.read_parquet(store.local(result.ref) / "training.parquet")
        store.log_metrics(child, [(m, v, s) for m, v, s in history.select("metric", "value", "step").iter_rows()])
        store.end_run(child)
        run_ids.append(child)
    result.summary["mlflow_run"] = run_ids[0]
    return state_of(replace(result, used=tuple(used)))


@task(task_run_name="keep steps of {info.label}", cache_policy=NO_CACHE, retries=1, retry_condition_fn=can_heal)
def kept_task(info: RunInfo, keys: Mapping[int, StageKey], arguments: Mapping[str, Any]) -> Any:
    """One result a step of ``keys``, in that order: ``adapter/`` as `train_task`'s, ``step`` in its summary.

    ``arguments``: of `train_adapter`. What the training left in their folder ``kept`` is taken from there. One that was
    itself taken from the cache left nothing: it is done once more, to the last of the steps that are missing.
    """
    folder, steps, last = arguments["kept"], list(keys), keys[max(keys)]
    parts = [Part(key, f"keep {Kept(info, step).info.run}") for step, key in keys.items()]

    def compute(missing: Sequence[int], progress: Progress) -> Mapping[int, Any]:
        lacking = [steps[place] for place in missing if not is_kept(folder, steps[place])]
        if lacking:
            again = home.subfolder("staging") / f"{last.digest}.again"
            shutil.rmtree(again, ignore_errors=True)
            again.mkdir()
            checkpoints = home.subfolder("checkpoints") / last.digest
            train = arguments["train"].model_copy(update={"keep_steps": tuple(lacking)})
            given = {**arguments, "train": train, "out": again, "checkpoints": checkpoints, "until_kept": True}

            def run(killed: int) -> dict[str, Any]:
                work = {**given, "killed": killed}
                return dict(run_pinned(train_adapter, work, log=log_file(last), progress=progress))

            holding_less(run, f"keep steps of {info.label}")
            for left in (again, checkpoints):
                shutil.rmtree(left, ignore_errors=True)

        def writer(step: int) -> Any:
            def write(out: Path, _: Progress) -> dict[str, Any]:
                copy_kept(folder, step, out / "adapter")
                return {"step": step}

            return write

        return {place: writer(steps[place]) for place in missing}

    results = run_stages(parts, f"keep steps of {info.label}", compute)
    forget(folder, steps)
    return states_of(results)


@task(task_run_name="gradients before training", cache_policy=NO_CACHE, retries=1, retry_condition_fn=can_heal)
def gradients_task(
    methods: Mapping[str, Method],
    train: TrainSpec,
    lora: LoraSpec,
    seed: int,
    spec: GradientSpec,
    base: ModelRef,
    graded: StageResult,
) -> Any:
    """Artifact: ``gradients.parquet`` (GRADIENTS) of the methods on the same rows, each with its own loss; with
    ``train.keep_steps`` also the gradients, as the adapters ``directions/METHOD``."""
    store = open_store()
    folder = store.local(base.ref) / base.folder
    settings = {
        "methods": {name: one.model_dump(mode="json", exclude={"lr_ratio"}) for name, one in methods.items()},
        "train": train.model_dump(mode="json", include={"precision", "mask_truncated"}),
        "lora": lora.model_dump(mode="json", exclude={"dropout"}),
        "seed": seed,
        "n": spec.n,
        "base": base.identity,
        "device": computed_on(slots()[0].kind, folder, train.precision),
    }
    if train.keep_steps:  # trajectories are held against them
        settings["directions"] = True
    key = GRADIENTS.key({"rollouts": graded.ref.sha256}, settings)
    arguments = {
        "base": folder,
        "rollouts": store.local(graded.ref) / "rollouts.parquet",
        "methods": methods,
        "train": train,
        "lora": lora,
        "seed": seed,
        "rows": spec.n,
        "pad_token": base.pad_token,
        "directions": bool(train.keep_steps),
    }

    def compute(out: Path, progress: Progress) -> Mapping[str, Any]:
        def run(killed: int) -> dict[str, Any]:
            given = {**arguments, "out": out, "killed": killed}
            return dict(run_pinned(measure_gradients, given, log=log_file(key), progress=progress))

        return holding_less(run, "gradients")

    return state_of(run_stage(key, "gradients", compute))


def holding_less(run: Callable[[int], dict[str, Any]], name: str) -> dict[str, Any]:
    """``run(0)``, or where the system kills its worker for memory ``run(1)``, ``run(2)``, ... up to `MOST_KILLED`."""
    for killed in range(MOST_KILLED):
        try:
            return run(killed)
        except OutOfMemory:
            emit(
                Event(
                    "again", name, note="the system killed its worker because memory ran out; passes of half the size"
                )
            )
    return run(MOST_KILLED)


@task(task_run_name="reference log-probabilities", cache_policy=NO_CACHE, retries=1, retry_condition_fn=can_heal)
def reference_task(key: StageKey, rows: Sequence[int], train: TrainSpec, base: ModelRef, graded: StageResult) -> Any:
    """Artifact: ``reference.parquet``, the base's log-probabilities of these rows of the rollouts."""
    store = open_store()
    arguments = {
        "base": store.local(base.ref) / base.folder,
        "rollouts": store.local(graded.ref) / "rollouts.parquet",
        "rows": rows,
        "precision": train.precision,
        "pad_token": base.pad_token,
    }

    def compute(out: Path, progress: Progress) -> Mapping[str, Any]:
        return dict(run_pinned(write_reference, {**arguments, "out": out}, log=log_file(key), progress=progress))

    return state_of(run_stage(key, "reference log-probabilities", compute))


def _reference_key(rows: Sequence[int], train: TrainSpec, base: ModelRef, graded: StageResult, device: str) -> StageKey:
    settings = {"rows": rows_digest(rows), "base": base.identity, "precision": train.precision, "device": device}
    return REFERENCE_LOGPROBS.key({"rollouts": graded.ref.sha256}, settings)
