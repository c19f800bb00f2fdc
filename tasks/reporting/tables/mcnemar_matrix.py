"""McNemar's test of every pair of runs as a matrix, one for each benchmark."""

from __future__ import annotations

from tasks.core.results import DIFFERS_LITTLE, EQUAL
from tasks.reporting.formats import benchmark_name, in_sentence, points, points_interval
from tasks.reporting.tables.views import Cell, Table, p_words, reference_marks
from tasks.reporting.views.join import MARGIN, StudyTables, benchmarks, ordered_runs, versus_of
from tasks.reporting.views.pairs import Geometry

MOST_RUNS = 16
"""Runs of a matrix that a page can hold; of more, the table of pairs has the tests."""


def mcnemar_matrices(tables: StudyTables, view: Geometry) -> list[Table]:
    """Row less column in points, and p; none for a benchmark without a test, or of more than `MOST_RUNS` runs."""
    return [table for name in benchmarks(tables) if (table := _matrix(tables, view, name)) is not None]


def _matrix(tables: StudyTables, view: Geometry, benchmark: str) -> Table | None:
    rows = tables.mcnemar.filter(benchmark=benchmark).to_dicts()
    found = {(row["run_a"], row["run_b"]): versus_of(row) for row in rows}
    found |= {(row["run_b"], row["run_a"]): versus_of(row, -1) for row in rows}
    infos = [info for info in ordered_runs(tables) if any(info.run in pair for pair in found)]
    if not found or len(infos) > MOST_RUNS:
        return None

    def cell(run: str, other: str) -> Cell:
        test = found.get((run, other))
        if test is None:
            return Cell("-" if run == other else "not tested")
        equal = test.verdict in (EQUAL, DIFFERS_LITTLE)
        marks = ("*" if test.shown else "") + ("=" if equal else "")
        return Cell(points(test.difference) + marks, (points_interval(test.low, test.high), p_words(test)))

    names = [info.run for info in infos]
    name = benchmark_name(benchmark)
    return Table(
        f"mcnemar-{benchmark}",
        f"Every run against every other, {in_sentence(benchmark)} problems",
        ("Run", *(f"less {other}" for other in names)),
        tuple((Cell(run), *(cell(run, other) for other in names)) for run in names),
        f"{name} accuracy of the row less that of the column, points, on the problems that both answered, with its "
        "95 % interval; p: exact two-sided McNemar, Holm-adjusted within its family (main runs against the base, main "
        f"runs among themselves); *: differs; =: equal within {MARGIN}; neither: no power to tell.",
        marks=reference_marks(infos, view),
    )
