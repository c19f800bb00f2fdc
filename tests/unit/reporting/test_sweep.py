"""A sweep's part of the page: the answers at its top, a row for every cell, and headlines that do not list nothing."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tasks.core.frames import BARRIERS, CONNECTIVITY
from tasks.core.results import RunInfo
from tasks.reporting.many.document import many_document
from tasks.reporting.many.frames import paths_frame
from tasks.reporting.many.joined import Many, join
from tasks.reporting.many.studies import read_studies
from tasks.reporting.many.sweep import Sweep
from tasks.reporting.many.write import write_many
from tasks.reporting.render.document import Document
from tasks.reporting.tables.views import Table
from tests.lab.many_studies import made, runs_of, write

A, B = RunInfo("a", "sft", 0, 0, 1e-3), RunInfo("b", "sft", 1, 0, 1e-3)
C = RunInfo("c", "sft", 0, 1, 1e-3)


def path(a: RunInfo, b: RunInfo, values: tuple[float, float, float]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Solution readings at both ends and half-way, and a barrier of .25."""
    rows = [
        (a.run, b.run, False, "solution", at, value, 4, 9) for at, value in zip((0.0, 0.5, 1.0), values, strict=True)
    ]
    barrier = [(a.run, b.run, False, "solution", 0.25, 0.1, 0.4, 0.5, 4)]
    return (
        pl.DataFrame(rows, schema=CONNECTIVITY, orient="row"),
        pl.DataFrame(barrier, schema=BARRIERS, orient="row"),
    )


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Many:
    """Two seeds of one data order; in the first DPO at SFT's rate, in the second at a tenth."""
    folder = tmp_path_factory.mktemp("sweep")
    one = made("one", runs_of(ratio=1.0), norms={"sft": 2.0, "dpo": 1.0}, cosines={("sft", "dpo"): 0.25},
               settings={"dpo.lr_ratio": 1.0})  # fmt: skip
    runs = [RunInfo(info.run, info.method, 1 if info.lr else 0, 0, info.lr) for info in runs_of(replicate=False)]
    two = made("two", runs, norms={"sft": 4.0, "dpo": 0.4}, settings={"seed": 1, "data_seed": 0})
    return join(read_studies([(name, write(folder / name, made)) for name, made in (("one", one), ("two", two))]))


def cell(
    label: str, status: str = "done", diverged: tuple[dict[str, Any], ...] = (), error: str = ""
) -> dict[str, Any]:
    done = status == "done"
    return {
        "cell": label, "status": status, "diverged": list(diverged), "error": error, "lr": 1e-3,
        "trained": [asdict(A)] if done else [], "computed": 3 if done else None, "hits": 4 if done else None,
        "seconds": 5.0 if done else None, "mlflow": "0123456789abcdef" if done else None,
        "page": f"cells/{label}/report.html" if done else None,
    }  # fmt: skip


LOST = {**asdict(RunInfo("dpo", "dpo", 0, 0, 1e-2)), "reason": "training diverged: loss is nan at step 3"}
CELLS = (
    cell("x=1", diverged=(LOST,)),
    cell("x=2"),
    cell("x=3", "diverged", (LOST,)),
    cell("x=4", "failed", error="no <disk>"),
)


@pytest.fixture(scope="module")
def page(many: Many) -> Document:
    return many_document(replace(many, sweep=Sweep("tiny", CELLS, paths_frame([(A, B)], *path(A, B, (1.0, 1.5, 1.2))))))


def rows(table: Table) -> dict[tuple[str, ...], tuple[str, ...]]:
    return {(row[0].text, *row[0].subs): tuple(cell.plain for cell in row[1:]) for row in table.rows}


def test_a_midpoint_by_hand_and_what_the_two_ends_differ_in() -> None:
    # 1.5 - (1 + 1.2) / 2 = .4
    frame = paths_frame([(A, B)], *path(A, B, (1.0, 1.5, 1.2)))
    row = frame.row(0, named=True)
    assert row == {"method": "sft", "lr": 1e-3, "differs": "initialisation", "a": "a", "b": "b",
                   "midpoint": pytest.approx(0.4), "barrier": 0.25}  # fmt: skip
    assert paths_frame([(A, C)], *path(A, C, (1.0, 1.5, 1.2)))["differs"].to_list() == ["data order"]
    assert paths_frame([(B, C)], *path(B, C, (1.0, 1.5, 1.2)))["differs"].to_list() == ["data order and initialisation"]
    assert paths_frame([], None, None).height == 0


def test_the_table_at_the_top_answers_the_open_questions(page: Document) -> None:
    table = page.headline
    assert (table.key, table.header) == ("answers", ("Question", "Answer", "n", "In the paper"))
    found = rows(table)
    answer, n, _ = found["DPO at SFT's learning rate?", "lr 1e-3, SFT's"]
    assert "cosine to SFT 0.250" in answer
    assert "norm 0.80 of SFT's" in answer  # the fixture's ratio
    assert n == "1"
    assert ("DPO at another rate", "lr 1e-4, 0.1 x SFT's") in found
    answer, n, paper = found["Half-way to itself, other initialisation?", "lr 1e-3"]
    assert answer.startswith("0.40 nats/token (barrier 0.25")
    assert (n, paper) == ("1", "+0.004 (of the boxed answer)")
    # The replicate of the first cell is the only pair of one method that was measured: its cosine is the fixture's.
    assert ("Same method, other data order?", "lr 1e-3") in found
    assert ("What does a higher rate do?", "lr 1e-4 to 1e-3") not in found  # DPO's two rates are of two seeds
    # One training that two cells have lost counts once.
    assert found["Which trainings diverge?", "lr 1e-2"] == (
        "dpo (seed 0: training diverged: loss is nan at step 3)", "1", "not reported",
    )  # fmt: skip


def test_diverged_and_failed_cells_are_rows_and_said(page: Document) -> None:
    table = page.sections[0].tables[0]
    assert [(row[0].text, row[1].plain, row[3].text) for row in table.rows] == [
        ("x=1", "done, 1 diverged (dpo: training diverged: loss is nan at step 3)", "1"),
        ("x=2", "done", "1"),
        ("x=3", "all methods diverged (dpo: training diverged: loss is nan at step 3)", "0"),
        ("x=4", "failed (no <disk>)", "0"),
    ]
    assert table.rows[1][0].href == "cells/x=2/report.html"
    sentences = page.findings.said
    assert "1 training diverged and is in no average: dpo at lr 1e-2 (seed 0)." in sentences
    assert "1 of 4 cells failed and are missing here: x=4." in sentences


def test_a_page_that_is_no_sweeps_has_neither(many: Many, tmp_path: Path) -> None:
    page = many_document(many)
    assert page.headline.key == "studies"
    assert page.sections[1].title == "Accuracy"
    whole = write_many(replace(many, sweep=Sweep("tiny", CELLS, paths_frame([], None, None))), tmp_path)
    text = whole[0].read_text()
    assert "no &lt;disk&gt;" in text
    assert "colinear sweep" in text


def test_without_paths_between_seeds_the_midpoints_are_those_within_the_studies(many: Many) -> None:
    within = many.pairs.filter(pl.col("midpoint").is_not_null(), pl.col("floor").is_not_null())
    frame = replace(many, sweep=Sweep("tiny", CELLS, paths_frame([], None, None))).midpoints
    assert frame["midpoint"].to_list() == within["midpoint"].to_list()
    assert set(frame["differs"]) == {"data order"}
