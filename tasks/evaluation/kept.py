"""Accuracy on the way: trajectories of runs beside the graded answers of their adapters at the steps that were kept."""

from __future__ import annotations

import polars as pl

from tasks.core.errors import InputError
from tasks.core.frames import RUN, TRAJECTORIES, checked
from tasks.core.results import Kept, RunInfo
from tasks.evaluation.accuracy import accuracy_table


def with_accuracy(trajectories: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """TRAJECTORIES with the accuracy at every step, a row a benchmark, from the greedy answers (ITEMS) to it.

    A run's last step answers under its own name, the others under that of `tasks.core.results.Kept`. Raises
    `InputError` where answers are missing.
    """
    rows = []
    scores: dict[str, list[tuple[object, ...]]] = {}
    columns = ("benchmark", "n", "correct", "accuracy", "low", "high", "answer_loss")
    for run, *score in accuracy_table(items.filter(pl.col("sample") == 0)).select("run", *columns).iter_rows():
        scores.setdefault(run, []).append(tuple(score))
    steps = trajectories.group_by("run").agg(pl.col("step").max())
    last = dict(steps.iter_rows())
    for row in trajectories.iter_rows(named=True):
        info = RunInfo(*(row[name] for name in RUN))
        name = info.run if row["step"] == last[info.run] else Kept(info, row["step"]).info.run
        if name not in scores:
            raise InputError(f"items: no answer of {name}; evaluate it too")
        asked = ("benchmark", "n", "correct", "accuracy", "low", "high", "loss")
        rows += [{**row, **dict(zip(asked, score, strict=True))} for score in scores[name]]
    return checked(pl.DataFrame(rows, schema=TRAJECTORIES), TRAJECTORIES, "trajectories")
