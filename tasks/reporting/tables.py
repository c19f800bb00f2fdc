"""Views as rows of strings: one source for the HTML page, its Markdown twin and the terminal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import polars as pl

from tasks.contracts import RunInfo
from tasks.reporting.formats import NOT_MEASURED, benchmark_name, learning_rate, number, p_value, percent, points
from tasks.reporting.join import (
    REFERENCES,
    HeadlineRow,
    Score,
    StudyTables,
    Versus,
    base_of,
    benchmarks,
    ordered_runs,
    primary_benchmark,
    score,
)
from tasks.reporting.notes import floor_note, interval, interval_note, percentile
from tasks.reporting.pairs import Geometry, headline_rows

NO_UPDATE = "no update"
"""What the base's row says where a weight update would stand."""


@dataclass(frozen=True)
class Cell:
    """What a cell says, and in smaller type, a line each, what qualifies it."""

    text: str
    subs: tuple[str, ...] = ()

    @property
    def plain(self) -> str:
        return f"{self.text} ({', '.join(self.subs)})" if self.subs else self.text


def said(text: str) -> tuple[str, ...]:
    """``text`` as the lines under a cell: none where it is empty."""
    return (text,) if text else ()


@dataclass(frozen=True)
class Table:
    """A table for a reader. ``words``: leading columns of words; the rest are numbers. ``note``: how and over what n.

    ``marks``: row index -> "base" (also other references) or "floor".
    """

    key: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str
    words: int = 1
    marks: dict[int, str] = field(default_factory=dict)


def headline_table(tables: StudyTables, view: Geometry) -> Table:
    """One row a run: accuracy, against the base, answer loss, and the update's direction and size."""
    rows = headline_rows(tables, view)
    name, with_hard = benchmark_name(primary_benchmark(tables)), any(row.hard for row in rows)
    reference = view.reference.run if view.reference else "sft"
    header = ["Run", f"{name} accuracy, %", "Against base, points"]
    header += ["Hard accuracy, %", "Hard against base, points"] if with_hard else []
    header += ["Answer loss, nats/token", f"Cosine to {reference}", "Norm of update", "Effective rank"]
    sizes = sorted({row.heldout.n for row in rows if row.heldout}) or [0]
    many = f"n = {sizes[0]}" if len(sizes) == 1 else f"n from {sizes[0]} to {sizes[-1]}"
    note = (
        f"{name}: one greedy answer a problem, {many}; below it the 95 % Wilson interval. Against base: paired "
        "difference, p exact two-sided McNemar, Holm-adjusted over all pairs of runs on that benchmark. Answer loss: "
        f"the reference solutions of the {name.lower()} problems, mean over tokens. Effective rank: exp of the entropy "
        f"of the singular values, mean over {view.modules} modules. Cosine: {interval_note(view)} {floor_note(view)}"
    )
    return Table(
        "headline",
        "Every run at a glance",
        tuple(header),
        tuple(_headline_row(row, view, with_hard) for row in rows),
        note,
        marks=_reference_marks([row.info for row in rows], view),
    )


def _headline_row(row: HeadlineRow, view: Geometry, with_hard: bool) -> tuple[Cell, ...]:
    info, trained = row.info, row.info in view.runs
    cells = [_run_cell(info), _score_cell(row.heldout), _versus_cell(info, row.heldout_versus)]
    if with_hard:
        cells += [_score_cell(row.hard), _versus_cell(info, row.hard_versus)]
    geometry = [_cosine_cell(info, row.cosine, view), Cell(number(row.norm, 3)), Cell(number(row.effective_rank, 2))]
    loss = Cell(number(row.heldout.answer_loss if row.heldout else None, 3))
    return (*cells, loss, *(geometry if trained else [_absent_update(info)] * 3))


def _cosine_cell(info: RunInfo, cosine: float | None, view: Geometry) -> Cell:
    """The cosine to the reference with its interval, where it stands in the null, and how it stands to the floor."""
    if view.reference is None or info == view.reference or cosine is None:
        return Cell(number(cosine, 3), said("itself" if info == view.reference else ""))
    found = view.estimate(info.run, view.reference.run, "cosine")
    rank = percentile(found)
    null = f"null {number(found.null, 3)}, percentile {rank}" if rank and found.null is not None else ""
    return Cell(number(cosine, 3), (*said(interval(found, 3)), *said(null), *said(view.standing(info, view.reference))))


def _absent_update(info: RunInfo) -> Cell:
    return Cell(NO_UPDATE if info.method == "base" else NOT_MEASURED)


def _run_cell(info: RunInfo) -> Cell:
    if info.method in REFERENCES:
        return Cell(info.run, ("untrained" if info.method == "base" else "reference",))
    order = said(f"data order {info.data_seed}" if info.data_seed != info.seed else "")
    return Cell(info.run, (f"lr {learning_rate(info.lr)} seed {info.seed}", *order))


def _score_cell(found: Score | None) -> Cell:
    if found is None:
        return Cell(NOT_MEASURED)
    return Cell(percent(found.accuracy), (f"{percent(found.low)} to {percent(found.high)}",))


def _versus_cell(info: RunInfo, found: Versus | None) -> Cell:
    if info.method == "base":
        return Cell("-", ("the base",))
    if found is None:
        return Cell(NOT_MEASURED)
    reading = said("" if found.shown else "no difference shown")
    return Cell(points(found.difference), (f"p {p_value(found.p_holm)}", *reading))


def _reference_marks(infos: list[RunInfo], view: Geometry) -> dict[int, str]:
    marks = {i: "base" for i, info in enumerate(infos) if info.method in REFERENCES}
    floors = {i: "floor" for i, info in enumerate(infos) if view.reference and view.twin(info, view.reference)}
    return marks | floors


def accuracy_table(tables: StudyTables, view: Geometry) -> Table:
    """Every run on every benchmark: counts, and the answers that could not be read or were cut."""
    rows: list[tuple[Cell, ...]] = []
    infos: list[RunInfo] = []
    base = base_of(tables)
    for benchmark in benchmarks(tables) or [primary_benchmark(tables)]:
        for info in ordered_runs(tables):
            found = score(tables, info.run, benchmark)
            if found is None and info != base:
                continue
            infos.append(info)
            counts = [found.correct, found.n, found.unparsed, found.truncated] if found else [None] * 4
            texts = [NOT_MEASURED if count is None else str(count) for count in counts]
            loss = number(found.answer_loss if found else None, 4)
            correct, n, unparsed, truncated = (Cell(text) for text in texts)
            words = (Cell(benchmark_name(benchmark)), Cell(info.run))
            rows.append((*words, correct, n, Cell(_score_cell(found).plain), unparsed, truncated, Cell(loss)))
    return Table(
        "accuracy",
        "Accuracy, run by run",
        ("Benchmark", "Run", "Correct", "n", "Accuracy, %", "Unparsed", "Truncated", "Answer loss, nats/token"),
        tuple(rows),
        "Unparsed: the grader found nothing to read; truncated: cut at the token limit. Both count as wrong unless "
        "what there was reads as the right answer. Interval: 95 % Wilson.",
        words=2,
        marks=_reference_marks(infos, view),
    )


def mcnemar_table(tables: StudyTables, view: Geometry) -> Table:
    """Every pair of runs on every benchmark, pairs with the base first."""
    base = base_of(tables).run
    cases = tables.mcnemar.with_columns(other=~((pl.col("run_a") == base) | (pl.col("run_b") == base)))
    order = {name: place for place, name in enumerate(benchmarks(tables))}
    found = sorted(cases.to_dicts(), key=lambda row: (order.get(row["benchmark"], len(order)), row["other"]))
    return Table(
        "mcnemar",
        "McNemar's test, pair by pair",
        ("Benchmark", "A", "B", "n", "Only A right", "Only B right", "A less B, points", "p", "p (Holm)", "Reading"),
        tuple(_mcnemar_row(row) for row in found),
        "Exact two-sided test on the problems that only one of the two runs answers right; Holm's adjustment over all "
        "pairs of one benchmark. 'No difference shown' is not 'equal': with few such problems there is little power.",
        words=3,
        marks={i: "base" for i, row in enumerate(found) if not row["other"]},
    )


def _mcnemar_row(row: dict[str, Any]) -> tuple[Cell, ...]:
    result = Versus(row["n"], row["only_a"], row["only_b"], row["difference"], row["p_value"], row["p_holm"])
    reading = "A higher" if result.difference > 0 else "A lower"
    if not result.shown:
        reading = "no difference shown" + ("" if result.only_this + result.only_other else ", no discordant problem")
    values = (str(result.n), str(result.only_this), str(result.only_other), points(result.difference))
    ps = (p_value(result.p_value), p_value(result.p_holm))
    words = (benchmark_name(row["benchmark"]), row["run_a"], row["run_b"])
    return tuple(Cell(text) for text in (*words, *values, *ps, reading))
