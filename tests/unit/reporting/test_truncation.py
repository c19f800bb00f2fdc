"""What each direction carries on the page: the table, the figure and the sentence."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from tasks.core.frames import LEADING, REST, TRUNCATION
from tasks.reporting.charts.curves import truncation_picture
from tasks.reporting.metrics import TRUNCATED
from tasks.reporting.render.document import build_document
from tasks.reporting.tables.truncation import truncation_finding, truncation_table
from tasks.reporting.views.read import NEEDED
from tasks.reporting.views.study import Study

N, RANK, HALF = 1000, 8, 0.015
# Run -> accuracy (of 1,000) of the leading 0, 1, 4 and 8 directions; the base has 600.
CARRIED = {"sft": (600, 540, 502, 500), "rft": (600, 498, 500, 500), "dft": (600, 560, 590, 500),
           "dpo": (600, 590, 590, 600), "rift": (600, 540, 515, 500)}  # fmt: skip


def make_truncation() -> pl.DataFrame:
    """Paired intervals of 1.5 points either way; the rest has what the leading directions lack."""
    rows = []
    for run, (base, *leading) in CARRIED.items():
        for part, k, right in [
            *((LEADING, k, right) for k, right in zip((0, 1, 4, RANK), (base, *leading), strict=True)),
            *((REST, k, base + leading[-1] - right) for k, right in zip((1, 4), leading, strict=False)),
        ]:
            less = (right - leading[-1]) / N
            kl = None if run == "dpo" else 0.01 * k
            score = (N, right, right / N, right / N - 0.03, right / N + 0.03, 1.0 - right / N)
            diverged = (kl, kl and kl / 2, kl and kl * 2)
            rows.append((run, run, 0, 0, 1e-3, "heldout", part, k, *score, *diverged, less, less - HALF, less + HALF))
    return pl.DataFrame(rows, schema=TRUNCATION, orient="row")


@pytest.fixture
def told(study: Study) -> Study:
    return replace(study, truncation=make_truncation())


def test_the_table_has_the_base_and_every_k_beside_the_rest(told: Study) -> None:
    (table,) = truncation_table(told)
    assert [row[0].text for row in table.rows] == ["base", *(run for run in CARRIED for _ in range(3))]
    assert [cell.text for cell in table.rows[0]] == ["base", "0", "60.0", "-", "0.400", "0", *4 * ["-"]]
    assert [cell.text for cell in table.rows[1]] == [
        "sft", "1", "54.0", "+4.0", "0.460", "0.0100", "56.0", "+6.0", "0.440", "0.0100",
    ]  # fmt: skip
    assert [cell.subs for cell in table.rows[1][2:6]] == [
        ("51.0 to 57.0",), ("[+2.50, +5.50]",), (), ("[0.00500, 0.0200]",)
    ]  # fmt: skip
    assert (table.rows[3][1].plain, table.rows[3][3].text, table.rows[3][6].text) == ("8 (all of it)", "0.0", "-")
    assert "n = 1,000" in table.note
    assert table.rows[-4][5].text == "not measured"  # DPO's, whole: no divergence was had


def test_the_sentence_says_the_smallest_k_or_that_it_cannot_be_told(told: Study) -> None:
    """sft: 4 is .2 points off; rft: 1 is; dft: 4.5 and more off at both; rift: 1.5 off at 4, neither; dpo: the base is
    equal to it."""
    assert truncation_finding(told) == (
        "Leading directions that give the whole update's accuracy within 2 points (95 % interval of the paired "
        "difference, 1000 problems, not corrected for the number of k): k = 4: sft; k = 1: rft; more than k = 4: dft; "
        "none is needed, the base has it: dpo; cannot be told: rift."
    )


def test_the_figure_runs_from_the_base_to_the_whole_and_back(told: Study) -> None:
    picture = truncation_picture(told)
    assert picture is not None
    leading, rest = (
        {(row["x"], round(row["y"], 6)) for row in panel["data"]["values"]} for panel in picture.spec["concat"]
    )
    expected = {(k, right / 10) for own in CARRIED.values() for k, right in zip((0, 1, 4, 8), own, strict=True)}
    assert leading == expected  # the base's line has the base's points
    assert {(0, 50.0), (1, 56.0), (4, 59.8), (8, 60.0)} <= rest
    assert picture.numbers.height == 6 * len(CARRIED)
    assert picture.svg.startswith("<svg")


def test_it_stands_in_its_section_and_nowhere_where_it_was_not_measured(study: Study, told: Study) -> None:
    page = build_document(told)
    section = next(one for one in page.sections if one.title == "Why they differ")
    assert [picture.key for picture in section.pictures] == ["truncation"]
    assert "truncation" in [table.key for table in section.tables]
    assert truncation_finding(told) in section.said
    assert (truncation_table(study), truncation_finding(study), truncation_picture(study)) == ([], "", None)
    assert "truncation.parquet" not in NEEDED
    assert [metric.name for metric in TRUNCATED] == [LEADING, REST]
