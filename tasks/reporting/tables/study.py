"""The study itself as rows of strings: training, benchmarks, checks, stages, settings, versions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import polars as pl

from tasks.reporting.formats import NOT_MEASURED, benchmark_name, learning_rate, number, seconds, significant
from tasks.reporting.tables.views import Cell, Table
from tasks.reporting.views.join import StudyTables, benchmarks, trained_runs

LOSS = "loss"
"""The training metric that every method has."""

_BENCHMARK_COUNTS = ("n", "shared_with_rollouts_dropped")


def losses(tables: StudyTables, run: str) -> tuple[list[int], list[float]]:
    """Steps and training losses of one run, in the order of the steps; values that are not finite are left out."""
    own = tables.training.filter(pl.col("run") == run, pl.col("metric") == LOSS, pl.col("value").is_finite())
    own = own.sort("step")
    return own["step"].to_list(), own["value"].to_list()


def training_table(tables: StudyTables) -> Table:
    """How often every run read its examples, and its first and last loss."""
    rows = [(Cell("base"), *(Cell("not trained") for _ in range(6)))]
    read = tables.study.get("training") or {}
    for info in trained_runs(tables):
        steps, values = losses(tables, info.run)
        found = (str(steps[-1]), number(values[0], 4), number(values[-1], 4)) if steps else (NOT_MEASURED,) * 3
        known = read.get(info.run)
        often = (str(known["examples"]), significant(known["epochs"])) if known else (NOT_MEASURED,) * 2
        rows.append((Cell(info.run), *(Cell(text) for text in (learning_rate(info.lr), *often, *found))))
    return Table(
        "training",
        "Training",
        ("Run", "Peak learning rate", "Examples", "Epochs", "Last logged step", "First loss", "Last loss"),
        tuple(rows),
        "Epochs: examples that the steps read over those that the method selected; a pair is one example. Each method "
        "minimises its own loss, so heights compare within a row, never between rows.",
        marks={0: "base"},
    )


def benchmarks_tables(tables: StudyTables) -> list[Table]:
    """What the models are judged by, where it comes from and how it is asked; empty where that was not recorded."""
    order = {name: place for place, name in enumerate(benchmarks(tables))}
    known = sorted(tables.study.get("benchmarks") or [], key=lambda one: order.get(one["name"], len(order)))
    rows = [
        tuple(Cell(text) for text in (benchmark_name(one["name"]), one["source"], one["template"].replace("\n", "\\n")))
        + tuple(Cell(NOT_MEASURED if one[key] is None else str(one[key])) for key in _BENCHMARK_COUNTS)
        for one in known
    ]
    note = (
        "Template: what is asked for a problem; the base's chat template, or model.prompt_template, goes around it. "
        "Seen in training: problems that are among the rollouts, which are left out."
    )
    header = ("Benchmark", "Source", "Template", "Problems", "Seen in training")
    return [Table("benchmarks", "Benchmarks", header, tuple(rows), note, words=3)] if rows else []


def turn_tables(tables: StudyTables) -> list[Table]:
    """How the base is asked and what ends its answers; empty for the embedded world and where it was not recorded."""
    turn = tables.study.get("turn")
    if not turn:
        return []
    ends = [f"{text} ({one}): {said}" for one, text, said in turn["ends"]]
    closing = next((text for one, text, _ in turn["ends"] if one == turn["closing"]), str(turn["closing"]))
    rows = [
        ("The prompt of a question", turn["prompt"]),
        ("What it has begun of the answer", turn["opens"] or "nothing"),
        ("What training teaches for it", turn["answer"]),
        ("The token that training ends an answer with", f"{closing} ({turn['closing']})"),
        *(("A token that ends an answer", end) for end in ends),
        ("The date in the chat template", turn["date"] or "none"),
    ]
    note = "One example, decoded from the tokens; every question is asked so, in sampling, training and evaluation."
    cells = tuple((Cell(name), Cell(str(text).replace("\n", "\\n"))) for name, text in rows)
    return [Table("turn", "How the base is asked, and what ends its answers", ("What", "Text"), cells, note, words=2)]


def checks_table(tables: StudyTables) -> Table:
    """What the study checked about itself."""
    checks = tables.study.get("checks") or []
    texts = [(check["name"], "holds" if check["ok"] else "FAILED", check["detail"]) for check in checks]
    rows = [tuple(Cell(str(text)) for text in row) for row in texts]
    return Table("checks", "Checks", ("Check", "Result", "Detail"), tuple(rows), "", words=3)


def stage_tables(tables: StudyTables) -> tuple[Table, Table]:
    """Seconds and cache hits by kind of stage, and the same stage by stage."""
    stages = sorted(tables.study.get("stages") or [], key=lambda stage: stage["started"])
    first = min((stage["started"] for stage in stages), default=0.0)
    kinds = dict.fromkeys(stage["stage"] for stage in stages)
    totals = []
    for kind in kinds:
        own = [stage for stage in stages if stage["stage"] == kind]
        spent = [seconds(sum(map(_spent, own))), seconds(max(map(_spent, own)))]
        totals.append((kind, str(len(own)), str(sum(bool(stage["hit"]) for stage in own)), *spent))
    told = any(stage.get("peak_bytes") for stage in stages)  # older studies have none
    rows = [
        (stage["stage"], stage["name"], "from the cache" if stage["hit"] else "computed", seconds(_spent(stage)),
         seconds(stage["started"] - first), *([_gigabytes(stage.get("peak_bytes"))] if told else []))
        for stage in stages
    ]  # fmt: skip
    work = sum(stage["seconds"] for stage in stages if not stage["hit"])
    hits = sum(bool(stage["hit"]) for stage in stages)
    note = (
        f"{hits} of {len(stages)} stages came from the cache (their seconds are those of the first computation). Work "
        f"in this run: {seconds(work)} summed over stages, some of them at the same time; wall time "
        f"{seconds(tables.study.get('wall_seconds'))}."
    )
    header = ("Stage", "Number", "From the cache", "Work, all together", "The longest")
    each = ("Stage", "Name", "Source", "Work", "Begun after", *(["Memory of a worker at most"] if told else []))
    return (
        Table("stage-totals", "Seconds by kind of stage", header, _cells(totals), note),
        Table("stages", "Stage by stage", each, _cells(rows), "", words=3),
    )


def _gigabytes(peak: float | None) -> str:
    """Of this machine, not of a GPU; a stage without a worker process has none."""
    return f"{peak / 1e9:.1f} GB" if peak else NOT_MEASURED


def _spent(stage: Mapping[str, Any]) -> float:
    return float(stage["cached_seconds"] if stage["hit"] else stage["seconds"])


def _cells(rows: Iterable[Sequence[object]]) -> tuple[tuple[Cell, ...], ...]:
    return tuple(tuple(Cell(str(text)) for text in row) for row in rows)


def settings_table(tables: StudyTables) -> Table:
    """Every resolved setting, as ``--set`` takes it."""
    rows = [(Cell(key), Cell(value)) for key, value in _flat(tables.study.get("settings") or {})]
    return Table("settings", "Settings", ("Setting", "Value"), tuple(rows), "", words=2)


def versions_table(tables: StudyTables) -> Table:
    """What it ran on: commit, machine, libraries, MLflow runs; those of a server lead to its pages."""
    study = tables.study
    origin = {"commit": study.get("commit") or "not recorded", "machine": study.get("machine") or "not recorded"}
    known = {**origin, **(study.get("versions") or {})}
    rows = [(Cell(str(key)), Cell(str(value))) for key, value in known.items()]
    mlflow = dict(_flat(study.get("mlflow") or {}))
    server = mlflow.get("uri", "")
    for key, value in mlflow.items():
        served = key != "uri" and server.startswith(("http://", "https://"))
        href = f"{server.rstrip('/')}/#/runs/{quote(value, safe='')}" if served else ""
        rows.append((Cell(f"mlflow {key}"), Cell(value, href=href)))
    return Table("versions", "Versions and records", ("What", "Value"), tuple(rows), "", words=2)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{key}", ", ".join(str(item) for item in value)
        else:
            yield f"{prefix}{key}", "not set" if value is None else str(value)
