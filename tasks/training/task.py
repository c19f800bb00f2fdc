"""Prefect task: train one adapter. Its MLflow run is the study's child run of that method, live while it trains."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.contracts import ModelRef, Progress, RunInfo, StageResult
from tasks.devices import run_pinned, slots
from tasks.methods import Method
from tasks.specs import LoraSpec, TrainSpec, flatten
from tasks.stage import can_heal, log_file, run_stage, state_of
from tasks.store import STUDIES, StageKey, open_store
from tasks.training.train import LOG, read_log, train_adapter

LIVE_SECONDS = 2.0


@task(task_run_name="train {info.label}", cache_policy=NO_CACHE, retries=1, retry_condition_fn=can_heal)
def train_task(
    info: RunInfo,
    method: Method,
    train: TrainSpec,
    lora: LoraSpec,
    base: ModelRef,
    graded: StageResult,
    study: str,
) -> Any:
    """Artifact: ``adapter/`` (PEFT), ``training.parquet`` (TRAINING), ``stream.parquet``. ``study``: the parent run."""
    store = open_store()
    settings = {
        "method": info.method,
        "hyper": method.model_dump(mode="json", exclude={"lr_ratio"}),
        "train": train.model_dump(mode="json", exclude={"lr"}),
        "lora": lora.model_dump(mode="json"),
        "seed": info.seed,
        "data_seed": info.data_seed,
        "lr": info.lr,
        "base": base.identity,
        "device": slots()[0].kind,  # precision auto and mixed mean different arithmetic on a GPU
    }
    key = StageKey("train", 1, {"rollouts": graded.ref.sha256}, settings)
    name = f"train {info.label}"
    tags = _tags(info)
    params = flatten(settings)
    run_ids: list[str] = []
    arguments = {
        "base": store.local(base.ref) / base.folder,
        "rollouts": store.local(graded.ref) / "rollouts.parquet",
        "method": method,
        "train": train,
        "lora": lora,
        "info": info,
        "pad_token": base.pad_token,
    }

    def compute(out: Path, progress: Progress) -> Mapping[str, Any]:
        live = _LiveMetrics(run_ids[0], out / LOG, progress)
        summary = run_pinned(train_adapter, {**arguments, "out": out}, log=log_file(key), progress=live)
        live.finish(out / "training.parquet")
        return dict(summary)

    result = run_stage(
        key, name, compute, parent=study, experiment=STUDIES, tags=tags, params=params, on_run=run_ids.append
    )
    if result.hit:  # the study still gets a child run of its own, with the numbers, that points to the source
        child = store.open_run(
            name, parent=study, experiment=STUDIES, tags={**tags, "cache.source_run": result.ref.run_id}, params=params
        )
        history = pl.read_parquet(store.local(result.ref) / "training.parquet")
        store.log_metrics(child, [(m, v, s) for m, v, s in history.select("metric", "value", "step").iter_rows()])
        store.end_run(child)
        run_ids.append(child)
    result.summary["mlflow_run"] = run_ids[0]
    return state_of(result)


def _tags(info: RunInfo) -> dict[str, str]:
    return {
        "kind": "method",
        "method": info.method,
        "run": info.run,
        "seed": str(info.seed),
        "data_seed": str(info.data_seed),
        "lr": f"{info.lr:g}",
    }


class _LiveMetrics:
    """Progress of a training that also sends the steps logged so far to MLflow, at most once in `LIVE_SECONDS`."""

    def __init__(self, run_id: str, log: Path, progress: Progress) -> None:
        self.run_id, self.log, self.progress = run_id, log, progress
        self.sent = 0
        self.last = time.monotonic()

    def __call__(self, done: int, total: int, note: str = "") -> None:
        self.progress(done, total, note)
        if time.monotonic() - self.last > LIVE_SECONDS:
            self.last = time.monotonic()
            with suppress(
                Exception
            ):  # a server that is away for a moment must not cost a training; finish() catches up
                self._send(read_log(self.log))

    def finish(self, frame: Path) -> None:
        """Send the rest, from the finished log."""
        rows = pl.read_parquet(frame).select("metric", "value", "step").iter_rows()
        self._send([(str(metric), float(value), int(step)) for metric, value, step in rows])

    def _send(self, rows: list[tuple[str, float, int]]) -> None:
        open_store().log_metrics(self.run_id, rows[self.sent :])
        self.sent = max(self.sent, len(rows))
