"""What a merge would do, on the page and in the terminal, and the call that makes the mean."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from tasks.core.frames import MERGE_LOSSES, MERGES
from tasks.core.results import RunInfo
from tasks.reporting.publish.write import write_comparison
from tasks.reporting.render.terminal import comparison_renderable
from tasks.reporting.tables.merges import merge_lines

Frames = dict[str, pl.DataFrame]
RUNS = [RunInfo(name, name, None, None, None) for name in ("sft", "d.po")]


def merges(**changes: float | None) -> pl.DataFrame:
    """One pair, over everything and one kind."""
    whole = {
        "run_a": "sft", "run_b": "d.po", "modules": 16, "norm_a": 3.0, "norm_b": 1.0, "norm_sum": 2.5,
        "cancelled": 0.375, "kept_a": 0.7, "kept_b": -0.9, "share_a": 0.9, "linear_error": 0.77,
        "room_a": 8, "room_b": 8, **changes,
    }  # fmt: skip
    return pl.DataFrame([{**whole, "kind": kind} for kind in ("*", "q_proj")], schema=MERGES)


PATHS = pl.DataFrame(
    [
        {
            "run_a": "sft", "run_b": "d.po", "n": 20, "tokens": 400, "loss_base": 2.0, "loss_a": 1.0, "loss_b": 1.5,
            "loss_mean": 1.4, "loss_sum": 1.9, "barrier": 0.15, "low": 0.1, "high": 0.2, "alpha": 0.5,
        }
    ],
    schema=MERGE_LOSSES,
)  # fmt: skip


@pytest.fixture(scope="module")
def frames(build_comparison: Callable[..., Frames]) -> Frames:
    return {**build_comparison(RUNS), "merges": merges(), "merge_losses": PATHS}


def test_the_lines_say_what_is_left_who_dominates_what_it_costs_and_the_call(frames: Frames) -> None:
    assert merge_lines(frames["merges"], PATHS, frames["adapters"]) == [
        "- sft + d.po: norm 2.500 of 3.000 and 1.000, 37.5 % cancelled; sft dominates with 90 % of the squared norms",
        "  loss, nats/token on 20 texts: base 2.000, sft 1.000, d.po 1.500, mean 1.400, sum 1.900; barrier 0.150 "
        "[0.100, 0.200]",
        "  PEFT's linear is not the mean: off by 77 % of the mean's norm; this is:",
        '  model.add_weighted_adapter(["sft", "d_po"], [0.5, 0.5], "mean", combination_type="cat")',
    ]


def test_of_rslora_the_weights_undo_the_root_of_the_new_rank(frames: Frames) -> None:
    """PEFT scales the new adapter by alpha / sqrt(rank), alpha being the rank 8 + 8: see test_merging."""
    adapters = frames["adapters"].with_columns(kind=pl.lit("rsLoRA"))
    call = merge_lines(frames["merges"], None, adapters)[-1]
    assert '[0.5 / 16**0.5, 0.5 / 16**0.5], "mean", combination_type="cat"' in call


def test_a_rank_pattern_below_r_everywhere_leaves_peft_room_for_r(frames: Frames) -> None:
    """r = 12, every module of rank 8 by its pattern: PEFT's new rank is 12 + 8, its scale 20 / sqrt(20)."""
    adapters = frames["adapters"].with_columns(kind=pl.lit("rsLoRA"))
    call = merge_lines(merges(room_a=12, linear_error=None), None, adapters)[-1]
    assert '[0.5 / 20**0.5, 0.5 / 20**0.5], "mean", combination_type="cat"' in call


def test_what_is_not_defined_is_said(frames: Frames) -> None:
    nothing = merges(share_a=None, kept_a=None, kept_b=None, linear_error=None)
    first, linear, _ = merge_lines(nothing, None, frames["adapters"])
    assert first.endswith("; both are zero")
    assert "it refuses two ranks" in linear
    assert "neither dominates" in merge_lines(merges(share_a=0.45), None, frames["adapters"])[0]
    assert "d.po dominates with 95 %" in merge_lines(merges(share_a=0.05), None, frames["adapters"])[0]


def test_the_page_the_record_and_the_terminal_have_the_merge(frames: Frames, tmp_path: Path) -> None:
    written = write_comparison(RUNS, frames, [], "sft", tmp_path)
    page, text, record = (path.read_text() for path in written[:3])
    assert {tmp_path / "merges.parquet", tmp_path / "merge_losses.parquet"} <= set(written)
    assert "<h2>Before a merge</h2>" in page
    section = text.split("## Before a merge")[1].split("\n## ")[0]
    assert "| sft + d.po | 2.000 | 1.000 | 1.500 | 1.400 | 1.900 | 0.150 (\\[0.100, 0.200\\]) | 0.5 |" in section
    assert "| sft + d.po | all modules | 16 | 3.000 | 1.000 | 2.500 | 37.5 | 0.70 | -0.90 | 90 " in section
    assert 'combination_type="cat") | the mean of the updates, exactly; rank 16 |' in section
    assert "not the mean: off by 77 % of the mean's norm" in section
    assert [row["kind"] for row in json.loads(record)["merges"]] == ["*", "q_proj"]
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(comparison_renderable(frames, "sft"))
    assert 'combination_type="cat")' in console.export_text().split("Before a merge:")[1]


def test_without_the_question_nothing_is_said_of_merges(frames: Frames, tmp_path: Path) -> None:
    plain = {name: frame for name, frame in frames.items() if not name.startswith("merge")}
    page = write_comparison(RUNS, plain, [], "sft", tmp_path)[0].read_text()
    assert "Before a merge" not in page
    assert "merges.parquet" not in page
