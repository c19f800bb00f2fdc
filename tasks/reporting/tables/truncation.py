"""What each direction of an update carries, as rows of strings."""

from __future__ import annotations

from typing import Any

import polars as pl

from tasks.core.frames import LEADING, REST
from tasks.core.results import EFFECT
from tasks.reporting.formats import benchmark_name, number, percent, points, points_interval, significant
from tasks.reporting.notes import MOST_LISTED, count, named
from tasks.reporting.tables.views import Cell, Cells, Table, said
from tasks.reporting.views.accuracy import MARGIN
from tasks.reporting.views.study import Study

TITLE = "What does each direction carry?"

_COLUMNS = ("accuracy, %", "less the whole update's, points", "answer loss, nats/token", "KL(base || it), nats/token")


def truncation_table(study: Study) -> list[Table]:
    """The base, then of every run the leading k directions beside the rest, up to the whole update."""
    frame = study.truncation.filter(benchmark=study.primary)
    if frame.is_empty():
        return []
    found = {(row["run"], row["part"], row["k"]): row for row in frame.iter_rows(named=True)}
    leading = [key for key in found if key[1] == LEADING]
    runs = frame["run"].unique(maintain_order=True).to_list()
    dash = [Cell("-")] * len(_COLUMNS)
    # Less the whole update's: the base's row is of all runs, so it has none.
    base = _cells(found[leading[0]])
    rows = [Cells(study.base.run, "0", base[0], "-", *base[2:], *dash, mark="base")]
    rows += [
        Cells(run, Cell(str(k), said("all of it" if k == max(ks) else "")), *_cells(found[run, LEADING, k]),
         *(_cells(found[run, REST, k]) if (run, REST, k) in found else dash))
        for run in runs
        for ks in [[k for one, _, k in leading if one == run and k]]
        for k in ks
    ]  # fmt: skip
    header = ("Run", "k", *(f"{part}: {name}" for part in ("Leading k", "The rest") for name in _COLUMNS))
    note = (
        f"{benchmark_name(study.primary)} problems, n = {max(frame['n']):,}, greedy answers. Leading k: the base with "
        "the k first singular directions of the update in every module, its best approximation of rank k; the rest: "
        "with the update less those. The last k of a run is the whole update. Accuracies with Wilson's 95 % interval, "
        "differences with the paired one (Bonett and Price), not corrected for the number of k. KL over the "
        "solutions' tokens of the problems of functions.n, [low, high]: 95 % bootstrap over problems."
    )
    return [Table("truncation", TITLE, header, rows, note, words=2)]


def _cells(row: dict[str, Any]) -> list[Cell]:
    kl = "" if row["kl_low"] is None else f"[{significant(row['kl_low'])}, {significant(row['kl_high'])}]"
    return [
        Cell(percent(row["accuracy"]), (f"{percent(row['low'])} to {percent(row['high'])}",)),
        Cell(points(row["difference"]), (points_interval(row["difference_low"], row["difference_high"]),)),
        Cell(number(row["loss"], 3)),
        Cell(significant(row["kl"]), said(kl if row["kl"] else "")),
    ]


def truncation_finding(study: Study) -> str:
    """For every run the smallest k whose accuracy is the whole update's; empty where nothing was measured, or where
    accuracy says nothing."""
    frame = study.truncation.filter(pl.col("part") == LEADING, benchmark=study.primary)
    if frame.is_empty() or study.nobody_solves or study.unended(study.primary):
        return ""
    answers: dict[str, list[str]] = {}
    for (run,), group in frame.group_by("run", maintain_order=True):
        answers.setdefault(_reached(group.sort("k")), []).append(str(run))
    words = "; ".join(f"{answer}: {named(runs, MOST_LISTED)}" for answer, runs in answers.items())
    return (
        f"Leading directions that give the whole update's accuracy within {MARGIN} (95 % interval of the paired "
        f"difference, {count(max(frame['n']), 'problem')}, not corrected for the number of k): {words}."
    )


def _reached(group: pl.DataFrame) -> str:
    """Of one run's rows of LEADING, k ascending from 0 to the whole update."""
    *below, _ = group.select("k", "difference_low", "difference_high").iter_rows()
    for k, low, high in below:
        if low >= -EFFECT and high <= EFFECT:
            return f"k = {k}" if k else "none is needed, the base has it"
    if all(low > 0 or high < 0 for _, low, high in below):
        return f"more than k = {below[-1][0]}"
    return "cannot be told"
