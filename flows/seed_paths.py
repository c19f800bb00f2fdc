"""The straight path between one method's updates at two seeds, which stand in two cells of a sweep."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import polars as pl
from prefect import flow
from prefect.futures import wait

from flows.cluster.ray_cluster import task_runner
from flows.record import first_failure
from flows.sweep_record import CellOutcome, called
from tasks.core.results import ModelRef, RunInfo, StageResult
from tasks.core.sections import EvaluationSpec, PathSpec
from tasks.geometry.function_tasks import end_task, path_task
from tasks.settings.study import StudySpec
from tasks.storage.store import open_store


@dataclass(frozen=True)
class Trained:
    """One distinct training of a sweep: its name over all cells, its adapter, and what paths to it are read with."""

    info: RunInfo
    adapter: StageResult
    base: ModelRef
    problems: StageResult
    evaluation: EvaluationSpec
    condition: str
    """All that decides it but its seeds, and what it is judged by."""


@dataclass(frozen=True)
class SeedPaths:
    """``pairs``: the two trainings of each path. Frames as `tasks.core.frames` has them, over all of them."""

    pairs: tuple[tuple[RunInfo, RunInfo], ...]
    connectivity: pl.DataFrame
    barriers: pl.DataFrame
    results: tuple[StageResult, ...]


def distinct(outcomes: Sequence[CellOutcome]) -> list[Trained]:
    """Every training of the sweep once, in the order of the cells."""
    found: dict[tuple[str, str], Trained] = {}
    for outcome in outcomes:
        if (study := outcome.study) is None:
            continue
        spec = outcome.cell.spec
        for info, adapter in study.trained:
            one = Trained(
                called(info, outcome.cell), adapter, study.base, study.problems, spec.evaluation,
                _condition(spec, info, study.base, study.problems),
            )  # fmt: skip
            found.setdefault((one.condition, adapter.ref.sha256), one)
    return list(found.values())


def neighbours(trainings: Sequence[Trained]) -> list[tuple[Trained, Trained]]:
    """Pairs that differ in nothing but seeds: each initialisation with the next higher one of the same data order, each
    data order with the next of the same initialisation; where no two share either, as they come."""
    groups: dict[str, list[Trained]] = {}
    for one in trainings:
        groups.setdefault(one.condition, []).append(one)
    pairs = []
    for group in groups.values():
        found = [*_along(group, "data_seed", "seed"), *_along(group, "seed", "data_seed")]
        ordered = sorted(group, key=lambda one: (one.info.seed or 0, one.info.data_seed or 0))
        pairs += found or list(pairwise(ordered))
    return pairs


def _along(group: Sequence[Trained], fixed: str, moving: str) -> list[tuple[Trained, Trained]]:
    lines: dict[int, list[Trained]] = {}
    for one in group:
        lines.setdefault(getattr(one.info, fixed), []).append(one)
    ordered = [sorted(line, key=lambda one: getattr(one.info, moving)) for line in lines.values()]
    return [pair for line in ordered for pair in pairwise(line)]


def _condition(spec: StudySpec, info: RunInfo, base: ModelRef, problems: StageResult) -> str:
    decides = {
        "method": info.method,
        "hyper": spec.method(info.method).model_dump(mode="json", exclude={"lr_ratio"}),
        "train": spec.train.identity,
        "lora": spec.lora.model_dump(mode="json"),
        "lr": info.lr,
        "base": base.identity,
        "problems": problems.ref.sha256,
        "answers": spec.evaluation.max_new_tokens,
    }
    return json.dumps(decides, sort_keys=True)


@flow(name="paths between seeds", flow_run_name="paths between seeds", task_runner=task_runner())
def seed_paths_flow(pairs: list[tuple[Trained, Trained]], paths: PathSpec) -> SeedPaths:
    """Read the reference solutions' cross-entropy along the path of each pair. Raises the first failure."""
    ends: dict[str, Any] = {}
    for one in [one for pair in pairs for one in pair]:
        if one.info.run not in ends:
            ends[one.info.run] = end_task.submit(one.info, one.base, one.problems, one.adapter, paths, one.evaluation)
    read = [
        path_task.submit(
            a.info, b.info, a.base, a.problems, (a.adapter, b.adapter), (ends[a.info.run], ends[b.info.run]), paths,
            a.evaluation,
        )
        for a, b in pairs
    ]  # fmt: skip
    wait([*ends.values(), *read])
    if failure := first_failure([*ends.values(), *read]):
        raise failure
    results = [future.result() for future in read]
    return SeedPaths(
        tuple((a.info, b.info) for a, b in pairs),
        pl.concat([_frame(one, "connectivity") for one in results]),
        pl.concat([_frame(one, "barriers") for one in results]),
        (*(future.result() for future in ends.values()), *results),
    )


def _frame(result: StageResult, name: str) -> pl.DataFrame:
    return pl.read_parquet(open_store().local(result.ref) / f"{name}.parquet")
