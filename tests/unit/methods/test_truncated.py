"""Completions that were cut: they count in their group's mean reward and carry no loss."""

from __future__ import annotations

import polars as pl
import pytest

from tasks.core.errors import InputError
from tasks.methods import Methods
from tasks.methods.common import chosen
from tests.lab.groups import graded

METHODS = Methods()
# Two prompts of two answers each: right and cut-and-wrong, right and wrong.
CUT = graded(("p1", 1.0), ("p1", 0.0), ("p2", 1.0), ("p2", 0.0)).with_columns(
    finish_reason=pl.Series(["stop", "length", "stop", "stop"])
)


def test_a_cut_answer_lowers_its_groups_mean_and_is_not_trained_on() -> None:
    rows = chosen(METHODS.offline_grpo, CUT, True)
    assert rows["row"].to_list() == [0, 2, 3]
    assert rows["weight"].to_list() == pytest.approx([0.6, 0.6, -0.4])  # r - 1/2 + .1, the mean over both answers
    assert chosen(METHODS.offline_grpo, CUT)["row"].to_list() == [0, 1, 2, 3]


def test_a_pair_with_a_cut_side_is_left_out() -> None:
    pairs = chosen(METHODS.dpo, CUT, True)
    assert pairs.select("row", "rejected_row").rows() == [(2, 3)]


def test_nothing_left_is_refused() -> None:
    with pytest.raises(InputError, match=r"^train\.mask_truncated: every example of Sft has a completion that was cut"):
        chosen(METHODS.sft, CUT.with_columns(finish_reason=pl.lit("length")), True)
