from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import polars as pl
import pytest

from tasks.core.frames import BARRIERS, CONNECTIVITY
from tasks.core.results import RunInfo
from tasks.reporting.charts.paths import MOST_PANELS, path_pictures
from tasks.reporting.findings.sentences import barrier_finding
from tasks.reporting.tables.barriers import barrier_tables
from tasks.reporting.tables.pairs import MOST_PAIRS
from tasks.reporting.tables.views import Cell
from tasks.reporting.views.paths import Barrier, base_readings, curve, largest, near_and_other, paths_of
from tasks.reporting.views.study import Study


def with_barriers(study: Study, *rows: tuple[object, ...]) -> Study:
    return replace(study, barriers=pl.DataFrame(rows, schema=BARRIERS, orient="row"))


def three(study: Study) -> Study:
    """Barriers by hand: dft at a quarter of the way from sft, the replicates' lower, one between others higher."""
    return with_barriers(
        study,
        ("sft", "dft", False, "solution", 0.03, 0.01, 0.05, 0.25, 60),
        ("sft", "dft", False, "accuracy", 0.1, 0.0, 0.2, 0.5, 60),
        ("sft", "sft-order1", False, "solution", 0.002, 0.0, 0.004, 0.5, 60),
        ("rft", "dft", False, "solution", 0.04, 0.0, 0.09, 0.75, 60),
        ("rft", "dft", True, "solution", None, None, None, None, 60),
    )


def test_a_barrier_is_found_whichever_way_round_and_its_alpha_turns(study: Study) -> None:
    paths = paths_of(three(study).barriers)
    assert paths.readings == ("solution", "accuracy")
    assert paths.find("sft", "dft", False, "solution") == Barrier(0.03, 0.01, 0.05, 60, alpha=0.25)
    assert paths.find("dft", "sft", False, "solution") == Barrier(0.03, 0.01, 0.05, 60, alpha=0.75)
    assert paths.find("dft", "sft", True, "solution") is None


def test_the_largest_leaves_the_twins_out_and_has_their_floor(study: Study) -> None:
    tables = three(study)
    found = largest(paths_of(tables.barriers), tables.geometry, "solution")
    assert found is not None
    assert (found.run, found.other, found.matched) == ("rft", "dft", False)
    # Paths with a value that are no floor: sft-dft and rft-dft; only the first interval lies above 0.
    assert (found.paths, found.shown) == (2, 1)
    assert found.by_chance == pytest.approx(0.05)  # of 2 intervals of 95 %, 2.5 % each lie above what they cover
    assert found.floor is not None
    assert (found.floor.n, found.floor.highest) == (1, 0.002)


def test_the_table_has_the_floor_beside_every_barrier(study: Study) -> None:
    tables = three(study)
    near, others = barrier_tables(tables)
    assert near.header[2:] == ("Solution, nats/token", "Solution, norm-matched, nats/token", "Error, points")
    rows = {row[0].text: row for row in near.rows}
    assert list(rows) == ["base", "sft-order1", *("rft", "dft", "rift", "offline_grpo", "dpo"),
                          "noise floor: data order", "noise floor: initialisation"]  # fmt: skip
    missing = Cell("not measured")
    assert rows["dft"][1:] == (
        *(Cell("sft"), Cell("0.0300", ("[0.0100, 0.0500]", "at alpha 0.75")), missing),
        Cell("10.0", ("[0.0, 20.0]", "at alpha 0.50")),
    )
    assert rows["rft"][2:] == (missing, missing, missing)
    assert rows["noise floor: data order"][1:] == (Cell("1 pair"), Cell("0.0020"), missing, missing)
    assert [row.mark for row in near.rows] == ["base", "floor", *[""] * 5, "floor", "floor"]
    assert [cell.text for cell in others.rows[1]] == ["rft", "dft", "0.0400", "not measured", "not measured"]


def test_the_sentence_sets_the_largest_against_the_floor(study: Study) -> None:
    tables = three(study)
    assert barrier_finding(tables) == (
        "Barriers on the straight paths between updates: solution at most 0.0400 nats a token (rft and dft, at alpha "
        "0.75; 0.0020 between runs of one method; interval above 0 on 1 of 2 paths, by chance about 0.050); "
        "error at most 10.0 points (sft and dft, at alpha 0.50; no noise floor measured; interval above 0 on 0 of 1 "
        "path, by chance about 0.025)."
    )
    flat = with_barriers(study, ("sft", "dft", False, "solution", 0.0, 0.0, 0.01, None, 60))
    assert barrier_finding(flat).endswith(": solution none on any of 1 path.")
    assert barrier_finding(with_barriers(study)) == ""


def test_the_bases_own_readings_stand_in_its_row_and_in_no_figure(study: Study) -> None:
    tables = three(study)
    rows = [("base", "base", False, reading, 0.0, value, 60, tokens)
            for reading, value, tokens in (("solution", 0.41236, 900), ("accuracy", 0.65, None))]  # fmt: skip
    own = pl.DataFrame(rows, schema=CONNECTIVITY, orient="row")
    read = replace(tables, connectivity=pl.concat([tables.connectivity, own]))
    assert base_readings(read.connectivity, "base") == {"solution": 0.41236, "accuracy": 0.65}
    near, others = barrier_tables(read)
    expected = ("base", "itself", "no update (loss 0.4124)", "no update", "no update (accuracy 65.0 %)")
    for table in (near, others):
        assert tuple(cell.plain for cell in table.rows[0]) == expected
    bare, _ = barrier_tables(tables)
    assert [cell.plain for cell in bare.rows[0][2:]] == ["no update"] * 3
    for picture, before in zip(path_pictures(read), path_pictures(tables), strict=True):
        assert picture.note == before.note


def test_the_table_says_how_many_barriers_chance_would_show(study: Study) -> None:
    """Of its measured paths, sft-dft and sft-sft-order1, and of one other: 2.5 % each."""
    tables = three(study)
    near, others = barrier_tables(tables)
    assert near.note.endswith(
        "so of 2 paths without a barrier about 0.050 a column would have a low above 0 by chance."
    )
    assert "so of 1 path without a barrier about 0.025 a column" in others.note


def test_curves_run_from_the_first_run_to_the_second(study: Study) -> None:
    rows = [("a", "b", False, "boxed", alpha, value, 5, 9) for alpha, value in ((1.0, 3.0), (0.0, 1.0), (0.25, 7.0))]
    frame = pl.DataFrame(rows, schema=CONNECTIVITY, orient="row")
    assert curve(frame, "a", "b", False, "boxed") == [(0.0, 1.0), (0.25, 7.0), (1.0, 3.0)]
    assert curve(frame, "b", "a", False, "boxed") == [(0.0, 3.0), (0.75, 7.0), (1.0, 1.0)]
    assert curve(frame, "a", "b", True, "boxed") == []


def test_pairs_are_sorted_by_what_they_are(study: Study) -> None:
    near, others = near_and_other(study.geometry, [("sft", "rft"), ("rft", "dft"), ("base", "sft")])
    assert near[0] == ("sft-order1", "sft")
    assert near[1:] == [(name, "sft") for name in ("rft", "dft", "rift", "offline_grpo", "dpo")]
    assert others == [("rft", "dft"), ("base", "sft")]


def test_one_figure_a_reading_one_panel_a_pair(study: Study) -> None:
    pictures = path_pictures(study)
    assert [picture.key for picture in pictures] == ["path-boxed", "path-solution", "path-accuracy"]
    views = pictures[1].spec["concat"]
    names = [view["title"]["text"].strip() for view in views]
    assert names == ["rft", "dft", "rift", "offline_grpo", "dpo", "sft-order1 (floor)"]
    for name, view in zip(names, views, strict=True):
        for matched in (False, True):
            points = curve(study.connectivity, name.removesuffix(" (floor)"), "sft", matched, "solution")
            drawn = [row for row in view["data"]["values"] if row["matched"] == matched]
            assert [(row["alpha"], row["value"]) for row in drawn] == points
            ends = [row for row in drawn if row["alpha"] in (0, 1)]
            assert [row["chord"] for row in ends] == [pytest.approx(row["value"], abs=1e-12) for row in ends]
    assert "60 problems, 11 points a path" in pictures[1].note
    assert "3 points a path" in pictures[2].note
    assert path_pictures(replace(study, connectivity=study.connectivity.clear())) == []


def test_many_runs_are_cut_and_counted(build_study: Callable[..., Study]) -> None:
    runs = [RunInfo("base", "base", 0, 0, 0.0), RunInfo("sft", "sft", 0, 0, 1e-3)]
    tables = build_study(runs=[*runs, *(RunInfo(f"m{i}", f"m{i}", 0, 0, 1e-3) for i in range(14))])
    picture = path_pictures(tables)[0]
    assert len(picture.spec["concat"]) == MOST_PANELS
    assert "Shown: 9 of 14 runs" in picture.note
    near, others = barrier_tables(tables)
    assert len(near.rows) == 1 + 14 + 2
    # 14 * 13 / 2 = 91 pairs without sft
    assert others.title == "Barriers of all other pairs: the 60 highest of 91 pairs"
    assert len(others.rows) == 1 + MOST_PAIRS + 2
    assert "barriers.parquet has all" in others.note


def test_a_study_without_paths_says_so(study: Study) -> None:
    (table,) = barrier_tables(with_barriers(study))
    assert (table.rows, table.note) == ((), "No path between two updates was read in this study.")


@pytest.mark.parametrize("matched", [False, True])
def test_a_norm_matched_largest_barrier_is_called_so(study: Study, matched: bool) -> None:
    tables = with_barriers(study, ("sft", "dft", matched, "boxed", 0.03, 0.01, 0.05, 0.25, 60))
    assert ("sft and dft, norm-matched, at" in barrier_finding(tables)) == matched
