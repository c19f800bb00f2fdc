"""Accuracy as rows of strings: every run on every benchmark, drawn answers, and the tests pair by pair."""

from __future__ import annotations

from typing import Any

import polars as pl

from tasks.reporting.formats import (
    NOT_MEASURED,
    benchmark_name,
    number,
    p_value,
    percent,
    points,
    points_interval,
    span,
)
from tasks.reporting.metrics import SAMPLED
from tasks.reporting.notes import count, spread_words
from tasks.reporting.tables.retention import retention_cells, retention_header, retention_note, retention_spreads
from tasks.reporting.tables.views import (
    VERDICT_NOTE,
    Cell,
    Cells,
    Table,
    detectable_points,
    family_words,
    mark_of,
    said,
    score_cell,
)
from tasks.reporting.views.accuracy import versus_of
from tasks.reporting.views.same_method import (
    FLOOR_NOTE,
    SAME_METHOD,
    accuracy_apart,
    averages_apart,
    floor_words,
    loss_apart,
    sampled_apart,
    unsigned_points,
)
from tasks.reporting.views.study import REFERENCES, Study

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


def accuracy_table(study: Study) -> Table:
    """Every run on every benchmark: counts, answers that could not be read or were cut, golds that could not."""
    rows = []
    base, golds = study.base, study.record.get("unparsed_golds")
    forgotten = retention_header(study)
    blanks = (Cell("-"),) * len(forgotten)
    for benchmark in study.benchmarks or [study.primary]:
        name = benchmark_name(benchmark)
        unread = [] if golds is None else [str(golds.get(benchmark, "not recorded"))]
        for info in study.ordered:
            found = study.score(info.run, benchmark)
            if found is None and info != base:
                continue
            counts = [found.correct, found.n, found.unparsed, found.truncated] if found else [NOT_MEASURED] * 4
            loss = number(found.answer_loss if found else None, 4)
            own = retention_cells(study, info) if benchmark == study.primary else blanks
            cells = (*counts[:2], score_cell(found).plain, *counts[2:], *unread, loss, *own)
            rows.append(Cells(name, info.run, *cells, mark=mark_of(info, study.geometry)))
        spread = Cell(*floor_words(accuracy_apart(study, benchmark), unsigned_points))
        losses = Cell(*floor_words(loss_apart(study, benchmark), lambda nats: number(nats, 4)))
        own = retention_spreads(study) if benchmark == study.primary else blanks
        rows.append(Cells(name, SAME_METHOD, "-", "-", spread, "-", "-", *unread, losses, *own, mark="floor"))
    header = (
        *("Benchmark", "Run", "Correct", "n", "Accuracy, %", "Unparsed answers", "Truncated"),
        *(() if golds is None else ("Unparsed golds",)),
        "Answer loss, nats/token",
        *forgotten,
    )
    kept = f" {retention_note(study)}" if forgotten else ""
    return Table(
        "accuracy",
        "Accuracy, run by run",
        header,
        rows,
        "Unparsed answers: the grader found nothing to read; truncated: cut at the token limit. Both count as wrong "
        "unless what there was reads as the right answer. n: greedy answers, one a problem. Interval: 95 % "
        "Wilson; a bootstrap over problems for a run that has only drawn answers, several a problem."
        + (
            " Unparsed golds: problems whose own answer the grader cannot read: every answer to them counts as wrong."
            if golds is not None
            else ""
        )
        + f"{kept} {FLOOR_NOTE}",
        words=2,
    )


def mcnemar_table(study: Study) -> Table:
    """Pairs of runs on every benchmark, pairs with the base first; of very many others those of the smallest p."""
    base = study.base.run
    cases = study.mcnemar.with_columns(other=~((pl.col("run_a") == base) | (pl.col("run_b") == base)))
    order = {name: place for place, name in enumerate(study.benchmarks)}
    kept = pl.concat([cases.filter(~pl.col("other")), _fewer(cases.filter("other"))])
    found = sorted(kept.to_dicts(), key=lambda row: (order.get(row["benchmark"], len(order)), row["other"]))
    cut = cases.height - kept.height
    said_cut = f"{cut} pairs of larger p are left out here; mcnemar.parquet has all. " if cut else ""
    spreads = {name: accuracy_apart(study, name) for name in {row["benchmark"] for row in found}}
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
        [_mcnemar_row(row, floors[row["benchmark"]], study, repeated) for row in found],
        f"{said_cut}Two-sided tests on the problems that only one of the two runs answers right; below a difference "
        f"its 95 % interval. {_families(study)} {POWER_NOTE} {_repeats(found)}{FLOOR_NOTE}",
        words=3,
    )


def _pair_mark(a: str, b: str, study: Study) -> str:
    """The mark of a pair with the base, and of one that is a noise floor."""
    return "floor" if study.geometry.kind(a, b) else "base" if study.base.run in (a, b) else ""


def _fewer(others: pl.DataFrame) -> pl.DataFrame:
    if others.height <= MOST_TESTS:
        return others
    places = others.with_row_index("place").sort("p_holm", "p_value", nulls_last=True, maintain_order=True)
    return places.head(MOST_TESTS).sort("place").drop("place")


def _families(study: Study) -> str:
    """The two families, by their sizes on the first benchmark."""
    first = study.primary
    base, methods = (family_words(study, name, first) for name in ("base", "methods"))
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


def _mcnemar_row(row: dict[str, Any], floor: Cell, study: Study, repeated: bool) -> Cells:
    found, a, b = versus_of(row), row["run_a"], row["run_b"]
    side = "" if not found.shown else "A higher" if found.difference > 0 else "A lower"
    why = "" if found.only_this + found.only_other else "no discordant problem"
    difference = Cell(points(found.difference), (points_interval(found.low, found.high),))
    again = "-" if found.repeatable is None else points_interval(found.method_low, found.method_high)
    holm = Cell(p_value(found.p_holm)) if found.family else Cell("-", ("outside the families",))
    return Cells(
        benchmark_name(row["benchmark"]), a, Cell(b, said(study.geometry.replicate_label(a, b))),
        found.n, found.only_this, found.only_other, difference, floor, *([again] if repeated else []),
        p_value(found.p_value), p_value(found.p_mid), holm, detectable_points(found),
        Cell(found.verdict, (*said(side), *said(why))), mark=_pair_mark(a, b, study),
    )  # fmt: skip


_KINDS = tuple(metric.name for metric in SAMPLED)
MOST_SCORES = 9
"""Columns of scores; the frame beside the page has all."""

MOST_DIFFERENCES = 60
"""Rows of the table of differences besides those with the base; the frame beside the page has all."""


def samples_table(study: Study) -> Table:
    """Every run on every benchmark that was answered several times, the base first."""
    frame = study.samples
    title = "Sampled scores"
    if frame.is_empty():
        return Table("samples", title, (), (), "No answers were drawn beside the greedy ones (avg@k, pass@k, maj@k).")
    scores = _scores(frame)
    kept = scores if len(scores) <= MOST_SCORES else _ends(scores)
    values = {(row["run"], row["benchmark"], row["metric"], row["k"]): row for row in frame.iter_rows(named=True)}
    infos = {info.run: info for info in study.ordered}
    base = study.base.run
    order = {name: place for place, name in enumerate(study.benchmarks)}
    names = sorted(frame["benchmark"].unique(maintain_order=True), key=lambda name: order.get(name, len(order)))
    rows = []
    for benchmark in names:
        measured = frame.filter(pl.col("benchmark") == benchmark)["run"].unique(maintain_order=True).to_list()
        for run in [base, *(run for run in infos if run in measured and run != base)]:
            cells = [_cell(values.get((run, benchmark, *score))) for score in kept]
            mark = "base" if run in infos and infos[run].method in REFERENCES else ""
            rows.append(Cells(benchmark_name(benchmark), run, *cells, mark=mark))
        floors = (Cell(*floor_words(sampled_apart(study, benchmark, *score), unsigned_points)) for score in kept)
        rows.append(Cells(benchmark_name(benchmark), f"{SAME_METHOD}, points", *floors, mark="floor"))
    fewer = f"The smallest and largest k of {len(scores)} scores; samples.parquet has all. "
    cut = "" if len(kept) == len(scores) else fewer
    note = (
        f"{cut}Percent, mean over problems (n = {span(frame['n'].to_list(), 0)}, "
        f"{span(frame['samples'].to_list(), 0)} drawn answers each); beneath it the 95 % bootstrap interval over "
        "problems. avg@k: share right; pass@k: at least one of k right; maj@k: the most frequent of k answers is "
        "right; all over every choice of k of the answers, not the first k alone. Votes are for values (1/2 and 0.5 "
        f"are one answer), a tie is shared. {FLOOR_NOTE}"
    )
    header = ("Benchmark", "Run", *(f"{metric}@{k}, %" for metric, k in kept))
    return Table("samples", title, header, rows, note, words=2)


def differences_tables(study: Study) -> list[Table]:
    """Pairs of runs in avg@k, pairs with the base first; of very many others the largest differences. Empty: no drawn
    answers."""
    if study.differences.is_empty():
        return []
    base = study.base.run
    frame = study.differences.with_row_index("place").with_columns(
        other=~((pl.col("run_a") == base) | (pl.col("run_b") == base))
    )
    others = frame.filter("other").sort(pl.col("difference").abs(), descending=True, maintain_order=True)
    kept = pl.concat([frame.filter(~pl.col("other")), others.head(MOST_DIFFERENCES)])
    order = {name: place for place, name in enumerate(study.benchmarks)}
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
    spreads = {name: averages_apart(study, name) for name in {row["benchmark"] for row in rows}}
    floors = {name: Cell(*floor_words(spread, unsigned_points)) for name, spread in spreads.items()}
    cells = [_difference_row(row, floors[row["benchmark"]], study) for row in rows]
    header = ("Benchmark", "A", "B", "n", "Answers each", "A less B in avg@k, points", f"{SAME_METHOD}, points")
    return [Table("differences", "Sampled scores, pair by pair", header, cells, note, words=3)]


def _difference_row(row: dict[str, Any], floor: Cell, study: Study) -> Cells:
    a, b = row["run_a"], row["run_b"]
    other = Cell(b, said(study.geometry.replicate_label(a, b)))
    name, mark = benchmark_name(row["benchmark"]), _pair_mark(a, b, study)
    return Cells(name, a, other, row["n"], row["samples"], _difference(row), floor, mark=mark)


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
