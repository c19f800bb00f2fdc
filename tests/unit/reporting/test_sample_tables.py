"""Pairs of runs in avg@k, and what the models are judged by, as the page shows them."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from tasks.core.frames import DIFFERENCES
from tasks.reporting.findings.doubts import not_measured
from tasks.reporting.tables.accuracy import differences_tables
from tasks.reporting.tables.record import benchmarks_tables
from tasks.reporting.tables.views import Cell
from tasks.reporting.views.study import Study

NONE = Cell("no noise floor measured")
SEEN = "shared_with_rollouts_dropped"


def test_differences_of_sampled_scores_are_the_frames(study: Study) -> None:
    rows = [
        ("heldout", "base", "sft", 10, 4, -0.05, -0.08, -0.02),
        ("heldout", "base", "dpo", 10, 4, 0.0, None, None),
        ("heldout", "sft", "dpo", 9, 4, 0.01, -0.01, 0.03),
    ]
    tables = replace(study, differences=pl.DataFrame(rows, schema=DIFFERENCES, orient="row"))
    (table,) = differences_tables(tables)
    held = Cell("Held-out")
    assert tuple(table.rows) == (
        (held, Cell("base"), Cell("sft"), Cell("10"), Cell("4"), Cell("-5.0", ("-8.0 to -2.0, beside 0",)), NONE),
        (held, Cell("base"), Cell("dpo"), Cell("10"), Cell("4"), Cell("0.0", ("the same on every problem",)), NONE),
        (held, Cell("sft"), Cell("dpo"), Cell("9"), Cell("4"), Cell("+1.0", ("-1.0 to +3.0",)), NONE),
    )
    assert {i: row.mark for i, row in enumerate(table.rows) if row.mark} == {0: "base", 1: "base"}
    # .05 x 3 = .15 pairs by chance, to one decimal.
    assert "0 is outside of 1 of 3, where 0.2 of 3 pairs without any difference would be expected" in table.note
    without = replace(study, differences=study.differences.clear())
    assert differences_tables(without) == []
    assert "differences in avg@k" in not_measured(without)


def test_of_many_differences_the_largest_and_all_with_the_base_stay(study: Study) -> None:
    rows = [("heldout", "base", f"r{i}", 10, 4, 0.0, -0.1, 0.1) for i in range(70)]
    rows += [("heldout", f"r{i}", f"r{i + 1}", 10, 4, (-1) ** i * i / 1000, -0.1, 0.1) for i in range(69)]
    tables = replace(study, differences=pl.DataFrame(rows, schema=DIFFERENCES, orient="row"))
    (table,) = differences_tables(tables)
    # 69 pairs without the base, 60 of them kept: those of i = 9..68.
    assert [row[1].text for row in table.rows] == ["base"] * 70 + [f"r{i}" for i in range(9, 69)]
    assert table.note.startswith("9 smaller differences are left out here; differences.parquet has all.")


def test_benchmarks_are_named_with_template_and_source(study: Study) -> None:
    known = [
        {"name": "heldout", "n": 400, "source": "mine.jsonl", "template": "{question}", SEEN: 3},
        {"name": "math500", "n": 100, "source": "math500/math500.jsonl", "template": "{question}\nBox it.", SEEN: 0},
    ]
    (table,) = benchmarks_tables(replace(study, record={**study.record, "benchmarks": known}))
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["Held-out", "mine.jsonl", "{question}", "400", "3"],
        ["MATH-500", "math500/math500.jsonl", "{question}\\nBox it.", "100", "0"],
    ]
    assert benchmarks_tables(study) == []
