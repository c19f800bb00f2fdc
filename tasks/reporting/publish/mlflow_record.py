"""What a finished study leaves in MLflow beside its files: numbers to sort by, data sets, registered adapters, a
description. The numbers are a study's record; the rest is for people who browse, and a store that refuses it ends
nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from tasks.core.results import RunInfo, StageResult
from tasks.reporting.claims.rules import FAILS, HOLDS, NO_POWER
from tasks.reporting.findings.lead import lead
from tasks.reporting.formats import NOT_MEASURED
from tasks.reporting.publish.published import run_metrics, study_note, top
from tasks.reporting.views.study import Study
from tasks.storage.mlflow_pages import DataSet, describe, log_data, model_page, register, run_page
from tasks.storage.store import STUDIES, Store, open_store

TYPES = {pl.String: "string", pl.Int64: "long", pl.Float64: "double", pl.Boolean: "boolean"}

MOST = 7000
"""Characters of a report in a description: the sections that begin it."""

CLAIMS = {
    HOLDS: "claims_hold", FAILS: "claims_do_not_hold", NO_POWER: "claims_no_power",
    NOT_MEASURED: "claims_not_measured",
}  # fmt: skip


def record_study(
    study: Study,
    files: Sequence[Path],
    parent: str,
    trained: Mapping[RunInfo, StageResult],
    graded: StageResult,
    problems: StageResult,
    warn: Callable[[str], None],
) -> None:
    """``parent``: its own run; ``files``: of the report, the page first; ``warn`` is told what MLflow refused."""
    store, folder = open_store(), files[0].parent
    store.log_files(parent, files, folder)
    _numbers(store, study, folder, parent, trained)
    models: dict[RunInfo, str] = {}
    parts: dict[str, Callable[[], None]] = {
        "data sets": lambda: _data(store, parent, trained, graded, problems),
        "registered adapters": lambda: models.update(_register(store, study.name, trained)),
        "descriptions": lambda: _describe(store, study, folder, parent, trained, models),
    }
    for what, show in parts.items():
        try:
            show()
        except Exception as error:  # the study is whole without
            warn(f"MLflow has no {what} of this study: {' '.join(str(error).split())[:300] or type(error).__name__}")


def describe_by_report(run: str, page: Path) -> None:
    """The beginning of ``report.md``, beside ``page``, as the description of a sweep's or a comparison's run."""
    with suppress(Exception):
        describe(open_store().client, run, top(page.with_name("report.md").read_text(encoding="utf-8"), MOST))


def _numbers(store: Store, study: Study, folder: Path, parent: str, trained: Mapping[RunInfo, StageResult]) -> None:
    """Accuracy and geometry as metrics of each adapter's run; the base's and counts on the study itself."""
    found = run_metrics(study)
    for info in trained:
        _log(store, _child(trained[info]), found.get(info, {}))
    base = next((values for info, values in found.items() if info.method == "base"), {})
    accuracies = {info: found[info]["accuracy"] for info in trained if "accuracy" in found.get(info, {})}
    counts: dict[str, float] = {
        **{f"base_{name}": value for name, value in base.items()},
        "adapters": len(trained),
        "methods": len({info.method for info in trained}),
        **_verdicts(folder / "claims.json"),
    }
    if accuracies:
        best = max(accuracies, key=lambda info: accuracies[info])
        counts["best_accuracy"] = accuracies[best]
        store.client.set_tag(parent, "best_run", best.label)
    _log(store, parent, counts)


def _log(store: Store, run: str, values: Mapping[str, float]) -> None:
    store.log_metrics(run, [(name, value, 0) for name, value in values.items()])


def _verdicts(file: Path) -> dict[str, int]:
    """How many of the paper's claims came out which way."""
    found = Counter(one["verdict"] for one in json.loads(file.read_text(encoding="utf-8")) if not one["open"])
    return {name: found[verdict] for verdict, name in CLAIMS.items()}


def _child(result: StageResult) -> str:
    return str(result.summary["mlflow_run"])


def _data(
    store: Store, parent: str, trained: Mapping[RunInfo, StageResult], graded: StageResult, problems: StageResult
) -> None:
    graded_file = store.local(graded.ref) / "rollouts.parquet"
    asked_file = store.local(problems.ref) / "problems.parquet"
    rollouts = pl.read_parquet(graded_file, columns=["problem_id", "reward"])
    seen: dict[str, Any] = {
        "rows": rollouts.height,
        "problems": rollouts["problem_id"].n_unique(),
        "correct": int((rollouts["reward"] == 1.0).sum()),
    }
    asked = pl.read_parquet(asked_file, columns=["split"]).filter(pl.col("split") != "rollouts")
    sizes = dict(asked.group_by("split").len().sort("split").iter_rows())
    data = [
        _data_set("graded rollouts", graded, graded_file, seen, "training"),
        _data_set("held-out problems", problems, asked_file, sizes, "evaluation"),
    ]
    for run in (parent, *map(_child, trained.values())):
        log_data(store.client, run, data)


def _data_set(name: str, stage: StageResult, file: Path, profile: Mapping[str, Any], context: str) -> DataSet:
    columns = {column: TYPES.get(type(kind), "any") for column, kind in pl.read_parquet_schema(file).items()}
    return DataSet(name, f"{stage.ref.uri}/{file.name}", stage.ref.sha256, columns, profile, context)


def _register(store: Store, name: str, trained: Mapping[RunInfo, StageResult]) -> dict[RunInfo, str]:
    """``models:/NAME/VERSION`` of each adapter."""
    found = {}
    for info, result in trained.items():
        tags = {key: str(value) for key, value in asdict(info).items() if key != "run"}  # its name in this study only
        run = store.client.get_run(result.ref.run_id)
        found[info] = register(store.client, name, run, {**tags, "study": name})
        for tag, value in (("adapter", found[info]), ("study", name)):
            store.client.set_tag(_child(result), tag, value)
    return found


def _describe(
    store: Store,
    study: Study,
    folder: Path,
    parent: str,
    trained: Mapping[RunInfo, StageResult],
    models: Mapping[RunInfo, str],
) -> None:
    experiment = store.experiments[STUDIES]
    pages = {info: run_page(experiment, _child(result)) for info, result in trained.items()}
    for info, result in trained.items():
        lines, source = [], result.ref.run_id
        if (uri := models.get(info)) is not None:
            lines = [f"Adapter [`{uri}`]({model_page(uri)})\n", f"    colinear compare {uri} OTHER...\n"]
        if source != _child(result):
            lines.append(f"Found in the cache; trained in run [{source}]({run_page(experiment, source)}).\n")
        describe(store.client, _child(result), "\n".join(lines))
    said = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    describe(store.client, parent, study_note(study, lead(study), said["warnings"], pages))
