"""Accuracy is never called alike where the test had no power to tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import polars as pl
import pytest

from tasks.contracts import MCNEMAR, SAMPLES, RunInfo
from tasks.reporting.accuracy_findings import against_base
from tasks.reporting.accuracy_tables import MOST_TESTS, accuracy_table, mcnemar_table
from tasks.reporting.join import StudyTables
from tasks.reporting.lost import lost
from tasks.reporting.pairs import geometry
from tasks.reporting.sample_tables import samples_table
from tasks.reporting.tables import Cell, headline_table

NONE = "no noise floor measured"


def judged(study: StudyTables, *rows: tuple[str, float, float, float | None, str]) -> StudyTables:
    """The base against runs on 1,000 held-out problems: (run, its gain, p, detectable, verdict)."""
    tests = [
        ("heldout", "base", run, 1000, 30, 30 + round(1000 * gain), 500, 100, -gain, p, p, detectable, verdict)
        for run, gain, p, detectable, verdict in rows
    ]
    return replace(study, mcnemar=pl.DataFrame(tests, schema=MCNEMAR, orient="row"))


def test_every_verdict_stands_with_what_would_have_been_found(study: StudyTables) -> None:
    tables = judged(
        study,
        ("sft", 0.05, 0.001, 0.031, "differs"),
        ("rft", -0.04, 0.004, 0.033, "differs"),
        ("dft", 0.004, 1.0, 0.018, "no difference shown"),
        ("rift", -0.002, 1.0, 0.0124, "no difference shown"),
        ("dpo", 0.019, 0.09, 0.041, "no power"),
    )
    lead, rest = against_base(tables, geometry(tables), "heldout").split("(n = 400): ")
    assert lead.startswith("Held-out accuracy against the base's")
    assert rest == (
        "higher for sft (+5.0 points, p = 0.001); lower for rft (-4.0 points, p = 0.004); no difference shown for "
        "dft (+0.4 points, p = 1.00) and rift (-0.2 points, p = 1.00), where one of 1.2 to 1.8 points would have been "
        "found; no power to tell for dpo (+1.9 points, p = 0.090): only one of 4.1 points or more would have been "
        "found. For comparison: no noise floor was measured for it. p: "
        "exact McNemar, Holm-adjusted over all pairs of runs; found: with a power of 80 %."
    )


def test_a_test_that_could_find_nothing_says_so(study: StudyTables) -> None:
    tables = judged(study, ("sft", 0.005, 1.0, None, "no power"))
    said = against_base(tables, geometry(tables), "heldout")
    assert "no power to tell for sft (+0.5 points, p = 1.00): none would be found." in said
    (row,) = mcnemar_table(tables, geometry(tables)).rows
    assert row[-2:] == (Cell("none"), Cell("no power"))


def test_tables_carry_verdict_and_detectable_difference(study: StudyTables) -> None:
    tables = judged(study, ("sft", 0.05, 0.001, 0.031, "differs"), ("dft", 0.004, 1.0, 0.018, "no difference shown"))
    view = geometry(tables)
    rows = {row[2].text: row for row in mcnemar_table(tables, view).rows}
    assert rows["sft"][-2:] == (Cell("3.1"), Cell("differs", ("A lower",)))
    assert rows["dft"][-2:] == (Cell("1.8"), Cell("no difference shown"))
    runs = {row[0].text: row[2] for row in headline_table(tables, view).rows}
    assert runs["sft"] == Cell("+5.0", ("p 0.001", "differs", "detectable 3.1", NONE))
    assert runs["dft"] == Cell("+0.4", ("p 1.00", "no difference shown", "detectable 1.8", NONE))
    assert runs["dpo"] == Cell("not measured")


def test_many_pairs_are_cut_but_never_those_with_the_base(build_study: Callable[..., StudyTables]) -> None:
    runs = [RunInfo("base", "base", 0, 0, 0.0), *(RunInfo(f"r{i}", "sft", i, i, 1e-3) for i in range(14))]
    tables = build_study(runs=runs)
    table = mcnemar_table(tables, geometry(tables))
    with_base = [row for row in table.rows if "base" in (row[1].text, row[2].text)]
    assert len(with_base) == 2 * 14
    assert len(table.rows) == 2 * 14 + MOST_TESTS
    # 14 * 13 / 2 = 91 pairs without the base on each of two benchmarks: 182 - 60 = 122.
    assert table.note.startswith("122 pairs of larger p are left out here; mcnemar.parquet has all.")
    others = tables.mcnemar.filter(pl.col("run_a") != "base").sort("p_holm", "p_value")
    kept = {tuple(cell.text for cell in row[1:3]) for row in table.rows}
    assert set(others.select("run_a", "run_b").head(5).rows()) <= kept


def test_unread_answers_and_unread_golds_are_counts_of_their_own(study: StudyTables) -> None:
    tables = replace(study, study={**study.study, "unparsed_golds": {"heldout": 3, "hard": 0}})
    table = accuracy_table(tables, geometry(tables))
    columns = dict(zip(table.header, zip(*table.rows, strict=True), strict=True))
    golds = dict(zip((cell.text for cell in columns["Benchmark"]), columns["Unparsed golds"], strict=True))
    assert golds == {"Held-out": Cell("3"), "Hard": Cell("0")}
    unread = study.accuracy.filter(benchmark="heldout")["unparsed"].to_list()
    assert [cell.text for cell in columns["Unparsed answers"]][: len(unread)] == [str(count) for count in unread]
    said = "The gold answer of 3 problems could not be read (held-out: 3), so no answer counts as right there"
    assert said.lower() in lost(tables).lower()
    assert "every answer to them counts as wrong" in table.note
    assert "Unparsed golds" not in accuracy_table(study, geometry(study)).header


def test_sampled_scores_are_the_frames(study: StudyTables) -> None:
    rows = [("sft", "heldout", "pass", k, 10, 4, v, v - 0.1, v + 0.1) for k, v in ((1, 0.5), (2, 0.625), (4, 0.75))]
    rows += [("sft", "heldout", "avg", 4, 10, 4, 0.5, None, None), ("base", "heldout", "maj", 4, 10, 4, 0.25, 0.2, 0.3)]
    table = samples_table(replace(study, samples=pl.DataFrame(rows, schema=SAMPLES, orient="row")), geometry(study))
    assert table.header[2:] == ("avg@4, %", "pass@1, %", "pass@2, %", "pass@4, %", "maj@4, %")
    missing = Cell("not measured")
    assert table.rows == (
        (Cell("Held-out"), Cell("base"), *[missing] * 4, Cell("25.0", ("20.0 to 30.0",))),
        (
            *(Cell("Held-out"), Cell("sft"), Cell("50.0"), Cell("50.0", ("40.0 to 60.0",))),
            *(Cell("62.5", ("52.5 to 72.5",)), Cell("75.0", ("65.0 to 85.0",)), missing),
        ),
        (Cell("Held-out"), Cell("Same method, points"), *[Cell(NONE)] * 5),
    )
    assert "n = 10, 4 drawn answers each" in table.note
    assert samples_table(replace(study, samples=study.samples.clear()), geometry(study)).rows == ()


def test_of_very_many_scores_the_ends_are_shown(study: StudyTables) -> None:
    rows = [("sft", "heldout", "pass", k, 10, 16, 0.5, 0.4, 0.6) for k in range(1, 17)]
    table = samples_table(replace(study, samples=pl.DataFrame(rows, schema=SAMPLES, orient="row")), geometry(study))
    assert table.header[2:] == ("pass@1, %", "pass@16, %")
    assert "samples.parquet has all" in table.note


@pytest.mark.parametrize(("name", "title"), [("gsm8k", "GSM8K"), ("aime2026", "AIME 2026"), ("my set", "my set")])
def test_titles_are_the_benchmarks(study: StudyTables, name: str, title: str) -> None:
    renamed = {
        frame: getattr(study, frame).filter(benchmark="heldout").with_columns(benchmark=pl.lit(name))
        for frame in ("accuracy", "mcnemar")
    }
    tables = replace(study, **renamed)
    assert headline_table(tables, geometry(tables)).header[1:4] == (
        *(f"{title} accuracy, %", "Against base, points", "Answer loss, nats/token"),
    )
    assert against_base(tables, geometry(tables), name).startswith(f"{title} accuracy against the base's")
