"""Sampled scores as rows of strings: avg@k, pass@k and maj@k with their intervals, and pairs of runs in avg@k."""

from __future__ import annotations

from typing import Any

import polars as pl

from tasks.reporting.formats import NOT_MEASURED, benchmark_name, percent, points, span
from tasks.reporting.metrics import SAMPLED
from tasks.reporting.notes import count
from tasks.reporting.tables.accuracy import pair_marks
from tasks.reporting.tables.views import Cell, Table, said
from tasks.reporting.views.join import REFERENCES, StudyTables, base_of, benchmarks, ordered_runs
from tasks.reporting.views.pairs import Geometry
from tasks.reporting.views.same_method import (
    FLOOR_NOTE,
    SAME_METHOD,
    averages_apart,
    floor_words,
    sampled_apart,
    unsigned_points,
)

_KINDS = tuple(metric.name for metric in SAMPLED)
MOST_SCORES = 9
"""Columns of scores; the frame beside the page has all."""

MOST_DIFFERENCES = 60
"""Rows of the table of differences besides those with the base; the frame beside the page has all."""


def samples_table(tables: StudyTables, view: Geometry) -> Table:
    """Every run on every benchmark that was answered several times, the base first."""
    frame = tables.samples
    title = "Sampled scores"
    if frame.is_empty():
        return Table("samples", title, (), (), "No answers were drawn beside the greedy ones (avg@k, pass@k, maj@k).")
    scores = _scores(frame)
    kept = scores if len(scores) <= MOST_SCORES else _ends(scores)
    values = {(row["run"], row["benchmark"], row["metric"], row["k"]): row for row in frame.iter_rows(named=True)}
    infos = {info.run: info for info in ordered_runs(tables)}
    base = base_of(tables).run
    order = {name: place for place, name in enumerate(benchmarks(tables))}
    names = sorted(frame["benchmark"].unique(maintain_order=True), key=lambda name: order.get(name, len(order)))
    rows: list[tuple[Cell, ...]] = []
    marks: dict[int, str] = {}
    for benchmark in names:
        measured = frame.filter(pl.col("benchmark") == benchmark)["run"].unique(maintain_order=True).to_list()
        for run in [base, *(run for run in infos if run in measured and run != base)]:
            if run in infos and infos[run].method in REFERENCES:
                marks[len(rows)] = "base"
            cells = (_cell(values.get((run, benchmark, *score))) for score in kept)
            rows.append((Cell(benchmark_name(benchmark)), Cell(run), *cells))
        spreads = [sampled_apart(tables, view, benchmark, *score) for score in kept]
        marks[len(rows)] = "floor"
        floors = (Cell(*floor_words(spread, unsigned_points)) for spread in spreads)
        rows.append((Cell(benchmark_name(benchmark)), Cell(f"{SAME_METHOD}, points"), *floors))
    cut = (
        ""
        if len(kept) == len(scores)
        else f"The smallest and largest k of {len(scores)} scores; samples.parquet has all. "
    )
    note = (
        f"{cut}Percent, mean over problems (n = {span(frame['n'].to_list(), 0)}, "
        f"{span(frame['samples'].to_list(), 0)} drawn answers each); beneath it the 95 % bootstrap interval over "
        "problems. avg@k: share right; pass@k: at least one of k right; maj@k: the most frequent of k answers is "
        "right; all over every choice of k of the answers, not the first k alone. Votes are for values (1/2 and 0.5 "
        f"are one answer), a tie is shared. {FLOOR_NOTE}"
    )
    header = ("Benchmark", "Run", *(f"{metric}@{k}, %" for metric, k in kept))
    return Table("samples", title, header, tuple(rows), note, words=2, marks=marks)


def differences_tables(tables: StudyTables, view: Geometry) -> list[Table]:
    """Pairs of runs in avg@k, pairs with the base first; of very many others the largest differences. Empty: no drawn
    answers."""
    if tables.differences.is_empty():
        return []
    base = base_of(tables).run
    frame = tables.differences.with_row_index("place").with_columns(
        other=~((pl.col("run_a") == base) | (pl.col("run_b") == base))
    )
    others = frame.filter("other").sort(pl.col("difference").abs(), descending=True, maintain_order=True)
    kept = pl.concat([frame.filter(~pl.col("other")), others.head(MOST_DIFFERENCES)])
    order = {name: place for place, name in enumerate(benchmarks(tables))}
    rows = sorted(
        kept.iter_rows(named=True),
        key=lambda row: (order.get(row["benchmark"], len(order)), row["other"], row["place"]),
    )
    cut = frame.height - kept.height
    apart = frame.filter((pl.col("low") > 0) | (pl.col("high") < 0)).height
    note = (
        f"{f'{cut} smaller differences are left out here; differences.parquet has all. ' if cut else ''}avg@k: the "
        f"share of the {span(frame['samples'].to_list(), 0)} drawn answers to a problem that are right. Beneath the "
        "difference its 95 % interval, a bootstrap over the problems that both answered. The intervals are each "
        f"pair's own, not of all together: 0 is outside of {apart} of {frame.height}, where {0.05 * frame.height:.1f} "
        f"of {count(frame.height, 'pair')} without any difference would be expected by chance. {FLOOR_NOTE}"
    )
    spreads = {name: averages_apart(tables, view, name) for name in {row["benchmark"] for row in rows}}
    floors = {name: Cell(*floor_words(spread, unsigned_points)) for name, spread in spreads.items()}
    cells = tuple((*_words(row, view), _difference(row), floors[row["benchmark"]]) for row in rows)
    header = ("Benchmark", "A", "B", "n", "Answers each", "A less B in avg@k, points", f"{SAME_METHOD}, points")
    marks = pair_marks([(row["run_a"], row["run_b"]) for row in rows], base, view)
    return [Table("differences", "Sampled scores, pair by pair", header, cells, note, words=3, marks=marks)]


def _words(row: dict[str, Any], view: Geometry) -> tuple[Cell, ...]:
    other = Cell(row["run_b"], said(view.replicate_label(row["run_a"], row["run_b"])))
    words = (Cell(benchmark_name(row["benchmark"])), Cell(row["run_a"]), other)
    return (*words, Cell(str(row["n"])), Cell(str(row["samples"])))


def _difference(row: dict[str, Any]) -> Cell:
    if row["low"] is None or row["high"] is None:
        return Cell(points(row["difference"]), ("the same on every problem",))
    side = "" if row["low"] <= 0 <= row["high"] else ", beside 0"
    return Cell(points(row["difference"]), (f"{points(row['low'])} to {points(row['high'])}{side}",))


def _scores(frame: pl.DataFrame) -> list[tuple[str, int]]:
    """(metric, k) in the order of the kinds, k ascending."""
    found = frame.select("metric", "k").unique().rows()
    known = [score for score in found if score[0] in _KINDS]
    return sorted(known, key=lambda score: (_KINDS.index(score[0]), score[1]))


def _ends(scores: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Of each metric the smallest and the largest k."""
    kept = []
    for kind in _KINDS:
        ks = [k for metric, k in scores if metric == kind]
        kept += [(kind, k) for k in sorted({min(ks), max(ks)})] if ks else []
    return kept


def _cell(row: dict[str, Any] | None) -> Cell:
    if row is None:
        return Cell(NOT_MEASURED)
    known = row["low"] is not None and row["high"] is not None
    return Cell(percent(row["value"]), (f"{percent(row['low'])} to {percent(row['high'])}",) if known else ())
