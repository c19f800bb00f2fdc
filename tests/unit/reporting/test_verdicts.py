"""Accuracy is called equal by an interval only, and a difference one by a test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import polars as pl
import pytest

from tasks.core.frames import MCNEMAR, SAMPLES
from tasks.core.results import DIFFERS, EQUAL, NO_POWER, RunInfo
from tasks.reporting.findings.doubts import lost
from tasks.reporting.findings.lead import accuracy_lead
from tasks.reporting.tables.accuracy import MOST_TESTS, accuracy_table, mcnemar_table, samples_table
from tasks.reporting.tables.headline import headline_table
from tasks.reporting.tables.views import Cell
from tasks.reporting.views.study import Study

NONE = "no noise floor measured"


def judged(study: Study, *rows: dict[str, Any]) -> Study:
    """The base against runs on 1,000 held-out problems: ``run``, its ``gain``, p, detectable, verdict, and columns of
    MCNEMAR; the interval is half a point to either side."""
    given = [
        {"benchmark": "heldout", "run_a": "base", "family": "base", "n": 1000, "only_a": 30, "only_b": 40, "both": 500,
         "neither": 430, "run_b": row["run"], "difference": -row["gain"], "low": -row["gain"] - 0.005,
         "high": -row["gain"] + 0.005, "p_value": row["p"] / 3, "p_mid": row["p"] / 4, "p_holm": row["p"],
         **{name: value for name, value in row.items() if name in MCNEMAR}}
        for row in rows
    ]  # fmt: skip
    return replace(study, mcnemar=pl.DataFrame(given, schema=MCNEMAR))


def row(run: str, gain: float, p: float, detectable: float | None, verdict: str, **columns: Any) -> dict[str, Any]:
    return {"run": run, "gain": gain, "p": p, "detectable": detectable, "verdict": verdict, **columns}


def test_a_test_that_could_find_nothing_says_so(study: Study) -> None:
    tables = judged(study, row("sft", 0.005, 1.0, None, NO_POWER, low=-0.2, high=0.19))
    (only,) = mcnemar_table(tables).rows
    assert only[-2:] == (Cell("none"), Cell("no power"))


def test_tables_carry_interval_verdict_and_detectable_difference(study: Study) -> None:
    alone = {"family": None, "p_holm": None}
    tables = judged(
        study,
        row("sft", 0.05, 0.001, 0.031, DIFFERS, method_low=-0.07, method_high=-0.03, repeats=1, training_sd=0.004),
        row("dft", 0.004, 1.0, 0.018, EQUAL),
        row("sft-order1", 0.05, 0.006, 0.03, DIFFERS, **alone),
    )
    table = mcnemar_table(tables)
    rows = {cells[2].text: dict(zip(table.header, cells, strict=True)) for cells in table.rows}
    assert rows["sft"]["A less B, points"] == Cell("-5.0", ("[-5.50, -4.50]",))
    assert rows["sft"]["With repeated trainings, points"] == Cell("[-7.00, -3.00]")
    assert [rows["sft"][name].text for name in ("p (exact)", "p (mid)", "p (Holm)")] == ["0.0003", "0.0003", "0.001"]
    assert rows["sft"]["Verdict"] == Cell("differs", ("A lower",))
    assert (rows["dft"]["Detectable, points"], rows["dft"]["Verdict"]) == (Cell("1.8"), Cell("equal within 2 points"))
    assert rows["dft"]["With repeated trainings, points"] == Cell("-")
    # Never printed as if adjusted.
    assert rows["sft-order1"]["p (Holm)"] == Cell("-", ("outside the families",))
    assert rows["sft-order1"]["p (exact)"] == Cell("0.002")
    assert "p (Holm): Holm-adjusted over the 2 pairs of a main run and the base" in table.note
    assert "(sd of one training 0.40 points, 1 degree of freedom)" in table.note
    runs = {cells[0].text: cells[4] for cells in headline_table(tables).rows}
    subs = ("[+4.50, +5.50]", "p 0.001", "differs", "detectable 3.1", "repeated [+3.00, +7.00]", NONE)
    assert runs["sft"] == Cell("+5.0", subs, tone="good", mark="▲ higher")
    assert runs["dft"] == Cell(
        "+0.4",
        ("[-0.10, +0.90]", "p 1.00", "equal within 2 points", "detectable 1.8", NONE),
        tone="same",
        mark="= equal",
    )
    assert runs["sft-order1"].subs[1:3] == ("p 0.002 (unadjusted)", "differs")
    assert runs["dpo"] == Cell("not measured")


def test_many_pairs_are_cut_but_never_those_with_the_base(build_study: Callable[..., Study]) -> None:
    runs = [RunInfo("base", "base", 0, 0, 0.0), *(RunInfo(f"r{i}", "sft", i, i, 1e-3) for i in range(14))]
    tables = build_study(runs=runs)
    table = mcnemar_table(tables)
    with_base = [row for row in table.rows if "base" in (row[1].text, row[2].text)]
    assert len(with_base) == 2 * 14
    assert len(table.rows) == 2 * 14 + MOST_TESTS
    # 14 * 13 / 2 = 91 pairs without the base on each of two benchmarks: 182 - 60 = 122.
    assert table.note.startswith("122 pairs of larger p are left out here; mcnemar.parquet has all.")
    others = tables.mcnemar.filter(pl.col("run_a") != "base").sort("p_holm", "p_value")
    kept = {tuple(cell.text for cell in row[1:3]) for row in table.rows}
    assert set(others.select("run_a", "run_b").head(5).rows()) <= kept


def test_unread_answers_and_unread_golds_are_counts_of_their_own(study: Study) -> None:
    tables = replace(study, record={**study.record, "unparsed_golds": {"heldout": 3, "hard": 0}})
    table = accuracy_table(tables)
    columns = dict(zip(table.header, zip(*table.rows, strict=True), strict=True))
    golds = dict(zip((cell.text for cell in columns["Benchmark"]), columns["Unparsed golds"], strict=True))
    assert golds == {"Held-out": Cell("3"), "Hard": Cell("0")}
    unread = study.accuracy.filter(benchmark="heldout")["unparsed"].to_list()
    assert [cell.text for cell in columns["Unparsed answers"]][: len(unread)] == [str(count) for count in unread]
    said = "The gold answer of 3 problems could not be read (held-out: 3), so no answer counts as right there"
    assert said.lower() in lost(tables).lower()
    assert "every answer to them counts as wrong" in table.note
    assert "Unparsed golds" not in accuracy_table(study).header


def test_sampled_scores_are_the_frames(study: Study) -> None:
    rows = [("sft", "heldout", "pass", k, 10, 4, v, v - 0.1, v + 0.1) for k, v in ((1, 0.5), (2, 0.625), (4, 0.75))]
    rows += [("sft", "heldout", "avg", 4, 10, 4, 0.5, None, None), ("base", "heldout", "maj", 4, 10, 4, 0.25, 0.2, 0.3)]
    table = samples_table(replace(study, samples=pl.DataFrame(rows, schema=SAMPLES, orient="row")))
    assert table.header[2:] == ("avg@4, %", "pass@1, %", "pass@2, %", "pass@4, %", "maj@4, %")
    missing = Cell("not measured")
    assert tuple(table.rows) == (
        (Cell("Held-out"), Cell("base"), *[missing] * 4, Cell("25.0", ("20.0 to 30.0",))),
        (
            *(Cell("Held-out"), Cell("sft"), Cell("50.0"), Cell("50.0", ("40.0 to 60.0",))),
            *(Cell("62.5", ("52.5 to 72.5",)), Cell("75.0", ("65.0 to 85.0",)), missing),
        ),
        (Cell("Held-out"), Cell("Same method, points"), *[Cell(NONE)] * 5),
    )
    assert "n = 10, 4 drawn answers each" in table.note
    assert samples_table(replace(study, samples=study.samples.clear())).rows == ()


def test_of_very_many_scores_the_ends_are_shown(study: Study) -> None:
    rows = [("sft", "heldout", "pass", k, 10, 16, 0.5, 0.4, 0.6) for k in range(1, 17)]
    table = samples_table(replace(study, samples=pl.DataFrame(rows, schema=SAMPLES, orient="row")))
    assert table.header[2:] == ("pass@1, %", "pass@16, %")
    assert "samples.parquet has all" in table.note


@pytest.mark.parametrize(("name", "title"), [("gsm8k", "GSM8K"), ("aime2026", "AIME 2026"), ("my set", "my set")])
def test_titles_are_the_benchmarks(study: Study, name: str, title: str) -> None:
    renamed = {
        frame: getattr(study, frame).filter(benchmark="heldout").with_columns(benchmark=pl.lit(name))
        for frame in ("accuracy", "mcnemar")
    }
    tables = replace(study, **renamed)
    assert headline_table(tables).header[3:5] == (f"{title} accuracy, %", "Against base, points")
    assert headline_table(tables).header[7:9] == ("Answer loss, nats/token", "Effective rank")
    assert accuracy_lead(tables).startswith(f"{title} accuracy against the base's")
