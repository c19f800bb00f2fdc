"""How updates became what they are: the adapters that a training kept on the way, as rows of strings."""

from __future__ import annotations

from typing import Any

import polars as pl

from tasks.core.frames import RUN
from tasks.reporting.formats import benchmark_name, percent, size, span
from tasks.reporting.metrics import TRAJECTORY
from tasks.reporting.notes import MOST_LISTED, count, named
from tasks.reporting.tables.views import Cell, Cells, Table, said
from tasks.reporting.views.study import Study

TITLE = "How did the updates become what they are?"

NEAR = 0.9
"""Cosine to the end from which on a sentence calls an update near it."""


def on_the_way(study: Study) -> pl.DataFrame:
    """TRAJECTORIES, a row a run and step, with the accuracy on the first benchmark where the steps were asked."""
    benchmark = pl.col("benchmark")
    return study.trajectories.filter(benchmark.is_null() | (benchmark == study.primary))


def trajectories_table(study: Study) -> list[Table]:
    """Every run's kept steps and its end; a column for what was measured of any."""
    frame = on_the_way(study)
    if frame.is_empty():
        return []
    metrics = [metric for metric in TRAJECTORY if frame[metric.name].count()]
    asked = frame["accuracy"].count() > 0
    last = dict(frame.group_by("run").agg(pl.col("step").max()).iter_rows())
    rows = [
        Cells(
            row["run"], Cell(str(row["step"]), said("the end" if row["step"] == last[row["run"]] else "")),
            size(row["norm"], 3), *("-" if row[one.name] is None else one.text(row[one.name]) for one in metrics),
            *([_score(row)] if asked else []),
        )
        for row in frame.iter_rows(named=True)
    ]  # fmt: skip
    header = ("Run", "Step", "Norm", *(one.columns[0].title for one in metrics), *(["Accuracy, %"] if asked else []))
    chance = span(frame["chance"].unique().to_list(), 3)
    note = (
        "Of the whole update after so many steps of its training. First gradient: one step down the gradient of "
        "lora_B at the base (see before the first step), of runs from the same initialisation. First output direction "
        f"kept: squared overlap with the last row's, mean over modules; random directions have {chance}."
    )
    if asked:
        n = max(frame["n"])
        note += f" Accuracy: {benchmark_name(study.primary)} problems, n = {n:,}, greedy, with Wilson's 95 % interval."
    return [Table("trajectories", TITLE, header, rows, note, words=2)]


def _score(row: dict[str, Any]) -> Cell:
    if row["accuracy"] is None:
        return Cell("-")
    return Cell(percent(row["accuracy"]), (f"{percent(row['low'])} to {percent(row['high'])}",))


def trajectories_finding(study: Study) -> str:
    """From which step on the updates point where they end, and how much of that the first gradient had; empty where
    nothing was kept."""
    frame = on_the_way(study).filter(pl.col("cosine_to_last").is_not_null())
    steps = sorted(frame["step"].unique())
    if len(steps) < 2:
        return ""
    ends = frame.group_by(list(RUN), maintain_order=True).agg(pl.all().sort_by("step"))
    since: dict[int, list[str]] = {}
    for row in ends.iter_rows(named=True):
        far = [step for step, value in zip(row["step"], row["cosine_to_last"], strict=True) if value < NEAR]
        after = min(step for step in row["step"] if step > max(far, default=0))
        since.setdefault(after, []).append(row["run"])
    when = "; ".join(f"from step {step} on for {named(runs, MOST_LISTED)}" for step, runs in sorted(since.items()))
    first = frame.filter(pl.col("step") == steps[0])["cosine_to_last"].to_list()
    words = (
        f"After {count(steps[0], 'step')} the updates have a cosine of {span(first, 2)} with their ends; "
        f"it is {NEAR:g} or more {when}."
    )
    towards = ends["cosine_to_gradient"].to_list()
    known = [values for values in towards if values[0] is not None]
    if not known:
        return words
    start, end = (span([values[place] for values in known], 2) for place in (0, -1))
    return f"{words} With their first gradient it is {start} there and {end} at the end."
