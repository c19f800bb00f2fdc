"""How updates became what they are on the page: the table, the figure and the sentence."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from tasks.core.frames import TRAJECTORIES
from tasks.reporting.charts.curves import trajectories_picture
from tasks.reporting.metrics import TRAJECTORY
from tasks.reporting.render.document import build_document
from tasks.reporting.tables.trajectories import trajectories_finding, trajectories_table
from tasks.reporting.views.read import NEEDED
from tasks.reporting.views.study import Study

# Run -> seed, cosine to the end and to the first gradient after 5, 20 and 80 steps.
WAYS = {"sft": (0, (0.5, 0.95, 1.0), (0.4, 0.45, 0.5)), "dpo": (0, (0.92, 0.97, 1.0), (0.1, 0.2, 0.3)),
        "sft-init1": (1, (0.6, 0.8, 1.0), (None, None, None))}  # fmt: skip
ASKED = ("benchmark", "n", "correct", "accuracy", "low", "high", "loss")


def make_trajectories(asked: bool) -> pl.DataFrame:
    rows = []
    for run, (seed, ends, starts) in WAYS.items():
        for step, end, start in zip((5, 20, 80), ends, starts, strict=True):
            way = (step, step / 80, 0.625, None if step == 5 else 12.5, end, start, end**2, 1 / 128)
            for benchmark in ("heldout", "hard") if asked else (None,):
                score = (benchmark, 1000, 10 * step, step / 100, 0.0, 1.0, 0.5) if asked else (None,) * 7
                rows.append((run, run.split("-")[0], seed, 0, 1e-3, *way, *score))
    return pl.DataFrame(rows, schema=TRAJECTORIES, orient="row")


@pytest.fixture
def told(study: Study) -> Study:
    return replace(study, trajectories=make_trajectories(asked=False))


def test_the_table_has_every_step_and_what_was_measured(told: Study) -> None:
    (table,) = trajectories_table(told)
    titles = [one.columns[0].title for one in TRAJECTORY]
    assert list(table.header) == ["Run", "Step", "Norm", *titles]
    assert [cell.plain for cell in table.rows[0]] == ["sft", "5", "0.062", "0.500", "0.400", "-", "62.5", "0.250"]
    assert [cell.plain for cell in table.rows[2]] == [
        "sft", "80 (the end)", "1.000", "1.000", "0.500", "12.5", "62.5", "1.000"
    ]  # fmt: skip
    assert table.rows[-1][4].text == "-"  # of another initialisation no gradient was taken
    assert "random directions have 0.008" in table.note


def test_accuracies_are_those_of_the_first_benchmark(study: Study) -> None:
    asked = replace(study, trajectories=make_trajectories(asked=True))
    (table,) = trajectories_table(asked)
    assert (len(table.rows), table.header[-1]) == (9, "Accuracy, %")
    assert table.rows[0][-1].plain == "5.0 (0.0 to 100.0)"
    picture = trajectories_picture(asked)
    assert picture is not None
    assert [panel["title"] for panel in picture.spec["concat"]][-1] == "Accuracy, %"
    assert picture.numbers.height == 9


def test_the_sentence_says_from_when_on_an_update_points_where_it_ends(told: Study) -> None:
    """sft from step 20 on, dpo from the first, the other only at its end."""
    assert trajectories_finding(told) == (
        "After 5 steps the updates have a cosine of 0.50 to 0.92 with their ends; it is 0.9 or more from step 5 on for "
        "dpo; from step 20 on for sft; from step 80 on for sft-init1. With their first gradient it is 0.10 to 0.40 "
        "there and 0.30 to 0.50 at the end."
    )


def test_a_panel_for_what_was_measured_and_a_line_for_whom(told: Study) -> None:
    picture = trajectories_picture(told)
    assert picture is not None
    end, start, share = picture.spec["concat"]
    assert [panel["title"] for panel in (end, start, share)] == [
        "Cosine to the end", "Cosine to the first gradient", "Rank-1 share, %"
    ]  # fmt: skip
    drawn = {(row["x"], row["y"]) for row in end["data"]["values"]}
    assert drawn == {(5, 0.5), (20, 0.95), (80, 1.0), (5, 0.92), (20, 0.97)}  # this study has no run sft-init1
    assert len(start["data"]["values"]) == 6
    assert picture.svg.startswith("<svg")


def test_it_stands_in_its_section_and_nowhere_where_nothing_was_kept(study: Study, told: Study) -> None:
    page = build_document(told)
    section = next(one for one in page.sections if one.title == "Why they differ")
    assert [picture.key for picture in section.pictures] == ["trajectories"]
    assert [table.key for table in section.tables] == ["trajectories"]
    assert section.said == (trajectories_finding(told),)
    assert (trajectories_table(study), trajectories_finding(study), trajectories_picture(study)) == ([], "", None)
    assert "Why they differ" not in [one.title for one in build_document(study).sections]
    assert "trajectories.parquet" not in NEEDED
