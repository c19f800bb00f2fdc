"""Accuracy as rows of strings: every run on every benchmark, and McNemar's test pair by pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from tasks.reporting.formats import NOT_MEASURED, benchmark_name, number, p_value, points, points_interval
from tasks.reporting.notes import spread_words
from tasks.reporting.tables.views import (
    VERDICT_NOTE,
    Cell,
    Table,
    detectable_points,
    family_words,
    reference_marks,
    said,
    score_cell,
)
from tasks.reporting.views.join import (
    StudyTables,
    base_of,
    benchmarks,
    ordered_runs,
    primary_benchmark,
    score,
    versus_of,
)
from tasks.reporting.views.pairs import Geometry
from tasks.reporting.views.same_method import (
    FLOOR_NOTE,
    SAME_METHOD,
    accuracy_apart,
    floor_words,
    loss_apart,
    unsigned_points,
)

MOST_TESTS = 60
"""Rows of the table of tests besides those with the base; the frame beside the page has all."""

POWER_NOTE = (
    f"Verdicts: {VERDICT_NOTE}. Detectable: the smallest true difference, in points, that the test would have found "
    "with a power of 80 % at the strictest of Holm's levels. p (mid): the exact test is conservative, this one hardly; "
    "verdicts are the exact test's."
)
REPEAT_NOTE = (
    "The interval below a difference is about these two models. With repeated trainings: about their methods; it adds "
    "how far one training of a method is from the next ({}), beyond what the sample of problems gives, once for each "
    "of the two that was trained."
)


def accuracy_table(tables: StudyTables, view: Geometry) -> Table:
    """Every run on every benchmark: counts, answers that could not be read or were cut, golds that could not."""
    rows: list[tuple[Cell, ...]] = []
    marks: dict[int, str] = {}
    base, golds = base_of(tables), tables.study.get("unparsed_golds")
    for benchmark in benchmarks(tables) or [primary_benchmark(tables)]:
        unread = () if golds is None else (Cell(str(golds.get(benchmark, "not recorded"))),)
        for info in ordered_runs(tables):
            found = score(tables, info.run, benchmark)
            if found is None and info != base:
                continue
            marks |= {len(rows) + i: mark for i, mark in reference_marks([info], view).items()}
            counts = [found.correct, found.n, found.unparsed, found.truncated] if found else [None] * 4
            correct, n, unparsed, truncated = (Cell(NOT_MEASURED if one is None else str(one)) for one in counts)
            words = (Cell(benchmark_name(benchmark)), Cell(info.run))
            loss = Cell(number(found.answer_loss if found else None, 4))
            answers = (correct, n, Cell(score_cell(found).plain), unparsed, truncated)
            rows.append((*words, *answers, *unread, loss))
        marks[len(rows)] = "floor"
        spread = Cell(*floor_words(accuracy_apart(tables, view, benchmark), unsigned_points))
        losses = Cell(*floor_words(loss_apart(tables, view, benchmark), lambda nats: number(nats, 4)))
        blank = Cell("-")
        words = (Cell(benchmark_name(benchmark)), Cell(SAME_METHOD))
        rows.append((*words, blank, blank, spread, blank, blank, *unread, losses))
    header = (
        *("Benchmark", "Run", "Correct", "n", "Accuracy, %", "Unparsed answers", "Truncated"),
        *(() if golds is None else ("Unparsed golds",)),
        "Answer loss, nats/token",
    )
    return Table(
        "accuracy",
        "Accuracy, run by run",
        header,
        tuple(rows),
        "Unparsed answers: the grader found nothing to read; truncated: cut at the token limit. Both count as wrong "
        "unless what there was reads as the right answer. n: greedy answers, one a problem. Interval: 95 % "
        "Wilson; a bootstrap over problems for a run that has only drawn answers, several a problem."
        + (
            " Unparsed golds: problems whose own answer the grader cannot read: every answer to them counts as wrong."
            if golds is not None
            else ""
        )
        + f" {FLOOR_NOTE}",
        words=2,
        marks=marks,
    )


def mcnemar_table(tables: StudyTables, view: Geometry) -> Table:
    """Pairs of runs on every benchmark, pairs with the base first; of very many others those of the smallest p."""
    base = base_of(tables).run
    cases = tables.mcnemar.with_columns(other=~((pl.col("run_a") == base) | (pl.col("run_b") == base)))
    order = {name: place for place, name in enumerate(benchmarks(tables))}
    kept = pl.concat([cases.filter(~pl.col("other")), _fewer(cases.filter("other"))])
    found = sorted(kept.to_dicts(), key=lambda row: (order.get(row["benchmark"], len(order)), row["other"]))
    cut = cases.height - kept.height
    said_cut = f"{cut} pairs of larger p are left out here; mcnemar.parquet has all. " if cut else ""
    spreads = {name: accuracy_apart(tables, view, name) for name in {row["benchmark"] for row in found}}
    floors = {name: Cell(*floor_words(spread, unsigned_points)) for name, spread in spreads.items()}
    repeated = any(row["repeats"] is not None for row in found)
    header = (
        *("Benchmark", "A", "B", "n", "Only A right", "Only B right", "A less B, points", f"{SAME_METHOD}, points"),
        *(["With repeated trainings, points"] if repeated else []),
        *("p (exact)", "p (mid)", "p (Holm)", "Detectable, points", "Verdict"),
    )
    return Table(
        "mcnemar",
        "McNemar's test, pair by pair",
        header,
        tuple(_mcnemar_row(row, floors[row["benchmark"]], view, repeated) for row in found),
        f"{said_cut}Two-sided tests on the problems that only one of the two runs answers right; below a difference "
        f"its 95 % interval. {_families(tables)} {POWER_NOTE} {_repeats(found)}{FLOOR_NOTE}",
        words=3,
        marks=pair_marks([(row["run_a"], row["run_b"]) for row in found], base, view),
    )


def pair_marks(pairs: Sequence[tuple[str, str]], base: str, view: Geometry) -> dict[int, str]:
    """Rows of pairs with the base, and of pairs that are a noise floor, for `Table.marks`."""
    floors = {i: "floor" for i, pair in enumerate(pairs) if view.kind(*pair)}
    return {i: "base" for i, pair in enumerate(pairs) if base in pair} | floors


def _fewer(others: pl.DataFrame) -> pl.DataFrame:
    if others.height <= MOST_TESTS:
        return others
    places = others.with_row_index("place").sort("p_holm", "p_value", nulls_last=True, maintain_order=True)
    return places.head(MOST_TESTS).sort("place").drop("place")


def _families(tables: StudyTables) -> str:
    """The two families, by their sizes on the first benchmark."""
    first = primary_benchmark(tables)
    base, methods = (family_words(tables, name, first) for name in ("base", "methods"))
    return (
        f"p (Holm): {base}, apart from these {methods.removeprefix('Holm-adjusted ')}, on each benchmark. A main run "
        "is the first of its method and learning rate; replicates, the teacher and the instructed base are outside the "
        "families, and their verdicts are by the exact p itself."
    )


def _repeats(rows: list[dict[str, Any]]) -> str:
    first = next((versus_of(row) for row in rows if row["repeats"] is not None), None)
    if first is None:
        return "No training was repeated, so every interval is about the two models only. "
    return f"{REPEAT_NOTE.format(spread_words(first))} "


def _mcnemar_row(row: dict[str, Any], floor: Cell, view: Geometry, repeated: bool) -> tuple[Cell, ...]:
    found = versus_of(row)
    side = "" if not found.shown else "A higher" if found.difference > 0 else "A lower"
    why = "" if found.only_this + found.only_other else "no discordant problem"
    counts = (str(found.n), str(found.only_this), str(found.only_other))
    difference = Cell(points(found.difference), (points_interval(found.low, found.high),))
    words = (benchmark_name(row["benchmark"]), row["run_a"])
    other = Cell(row["run_b"], said(view.replicate_label(row["run_a"], row["run_b"])))
    again = "-" if found.repeatable is None else points_interval(found.method_low, found.method_high)
    holm = Cell(p_value(found.p_holm)) if found.family else Cell("-", ("outside the families",))
    tests = (Cell(p_value(found.p_value)), Cell(p_value(found.p_mid)), holm, Cell(detectable_points(found)))
    pair = (*(Cell(text) for text in words), other, *(Cell(text) for text in counts), difference, floor)
    verdict = Cell(found.verdict, (*said(side), *said(why)))
    return (*pair, *([Cell(again)] if repeated else []), *tests, verdict)
