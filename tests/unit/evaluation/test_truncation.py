"""The frame of truncated updates, from answers made up by hand."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from tasks.core.errors import InputError
from tasks.core.frames import DIVERGENCE, ITEMS, LEADING, REST, TRUNCATION
from tasks.core.results import RunInfo, Truncated
from tasks.evaluation.intervals import paired_interval, wilson
from tasks.evaluation.truncation import truncation_frame

SFT = RunInfo("sft", "sft", 5, 7, 1e-3)
PARTS = [Truncated(SFT, REST, 1), Truncated(SFT, LEADING, 2), Truncated(SFT, LEADING, 1)]
RIGHT = {"base": "1100000000", "sft": "1111110000", "sft-leading-1": "1110000001", "sft-leading-2": "1111110000",
         "sft-rest-1": "0000000000"}  # fmt: skip


def answers(right: dict[str, str] = RIGHT, loss: float = 2.0) -> pl.DataFrame:
    """A problem a digit, each of 4 tokens; an answer's loss is that of the place of its run; a wrong sample beside."""
    rows: list[dict[str, Any]] = []
    for place, (run, digits) in enumerate(right.items()):
        for i, digit in enumerate(digits):
            row = dict.fromkeys(ITEMS) | {"run": run, "method": run, "benchmark": "heldout", "problem_id": f"p{i}"}
            row |= {"sample": 0, "correct": digit == "1", "finish_reason": "stop", "prediction": "1", "gold": "1"}
            rows.append(row | {"answer_nll": loss * place, "answer_tokens": 4})
            rows.append(row | {"sample": 1, "correct": False})
    return pl.DataFrame(rows, schema=ITEMS)


def divergence() -> pl.DataFrame:
    rows = [("base", "sft", 9, 40, 0.5, 0.4, 0.6), ("sft", "base", 9, 40, 9.0, 8.0, 10.0),
            ("base", "sft-leading-1", 9, 40, 0.1, 0.05, 0.2)]  # fmt: skip
    return pl.DataFrame(rows, schema=DIVERGENCE, orient="row")


def test_every_part_beside_the_base_and_the_whole() -> None:
    frame = truncation_frame(PARTS, 8, answers(), divergence())
    assert dict(frame.schema) == TRUNCATION
    assert frame.select("part", "k", "n", "correct", "loss", "kl").rows() == [
        (LEADING, 0, 10, 2, 0.0, 0.0),
        (LEADING, 1, 10, 4, 1.0, 0.1),
        (LEADING, 2, 10, 6, 1.5, None),
        (LEADING, 8, 10, 6, 0.5, 0.5),
        (REST, 1, 10, 0, 2.0, None),
    ]
    assert frame.select("run", "method", "seed", "data_seed", "lr").unique().rows() == [("sft", "sft", 5, 7, 1e-3)]
    one = frame.row(1, named=True)
    assert (one["low"], one["high"]) == wilson(4, 10)
    assert (one["kl_low"], one["kl_high"]) == (0.05, 0.2)
    # Solved by the truncated one alone: p9; by the whole alone: p3, p4, p5.
    assert one["difference"] == pytest.approx(-0.2)
    assert (one["difference_low"], one["difference_high"]) == paired_interval(1, 3, 10)
    assert frame["difference"].to_list() == pytest.approx([-0.4, -0.2, 0.0, 0.0, -0.6])


def test_no_divergence_is_none_of_the_base_either() -> None:
    assert truncation_frame(PARTS, 8, answers(), pl.DataFrame(schema=DIVERGENCE))["kl"].null_count() == 5


def test_each_benchmark_has_its_rows_and_a_missing_answer_is_no_smaller_one() -> None:
    hard = answers({name: digits[:3] for name, digits in RIGHT.items()}).with_columns(benchmark=pl.lit("hard"))
    both = truncation_frame(PARTS, 8, pl.concat([answers(), hard]), divergence())
    assert both.select("benchmark", "n").unique(maintain_order=True).rows() == [("heldout", 10), ("hard", 3)]
    with pytest.raises(InputError, match="no answer of sft-rest-1 to heldout; evaluate it too"):
        truncation_frame(PARTS, 8, answers().filter(pl.col("run") != "sft-rest-1"), divergence())
