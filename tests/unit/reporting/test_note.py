"""The description of a study's MLflow run: the page's own numbers, and nothing in a name is markup."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from tasks.core.results import RunInfo
from tasks.reporting.findings.headline import findings
from tasks.reporting.publish.published import study_note
from tasks.reporting.views.study import Study
from tests.unit.reporting.conftest import HOSTILE, RUNS


def note(study: Study, pages: dict[RunInfo, str] | None = None) -> str:
    said = findings(study)
    return study_note(study, said.lead, said.warnings, pages or {})


def rows(text: str) -> dict[str, list[str]]:
    """First cell -> the others, of the table."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {first.strip(): rest for first, *rest in cells}


def test_a_row_a_run_with_the_frames_numbers(study: Study) -> None:
    found = rows(note(study))
    assert list(found)[2:4] == ["base", "sft"]
    accuracy = study.accuracy.filter(run="dpo", benchmark="heldout")["accuracy"].item()
    test = study.mcnemar.filter(benchmark="heldout", run_a="base", run_b="dpo").row(0, named=True)
    header = found["run"]
    dpo = dict(zip(header, found["dpo"], strict=True))
    assert dpo["accuracy %"] == f"{100 * accuracy:.1f}"
    assert dpo["against base"] == f"{-100 * test['difference']:+.1f}"
    assert dpo["cosine"] == "-0.021"
    base = dict(zip(header, found["base"], strict=True))
    assert (base["against base"], base["cosine"], base["norm"]) == ("", "", "")
    assert dict(zip(header, found["rft"], strict=True))["cosine"].endswith("\\*") == (
        study.geometry.standing(RUNS[2], RUNS[1]) == "at the noise floor"
    )


def test_runs_with_a_page_are_links_to_it(study: Study) -> None:
    found = rows(note(study, {RUNS[1]: "#/experiments/1/runs/abc"}))
    assert "[sft](#/experiments/1/runs/abc)" in found
    assert "rft" in found


def test_names_are_text(study: Study) -> None:
    renamed = replace(study, accuracy=study.accuracy.with_columns(pl.col("benchmark").replace("hard", HOSTILE)))
    text = note(renamed)
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_it_begins_with_what_the_report_says_first(study: Study) -> None:
    said = findings(study)
    text = note(study)
    assert text.index(said.lead[0][:40]) < text.index("| run |") < text.index(said.lead[1][:40])
    assert said.sentences[-1][:60] not in text
