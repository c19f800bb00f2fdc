"""Our grades against the labels of two real rollout sets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tasks.grading.grade import agreement, grade_many
from tasks.rollouts.files import read_rollouts


def _file(name: str) -> Path:
    if "COLINEAR_DATA" not in os.environ:
        pytest.skip("COLINEAR_DATA is not set: no real data")
    path = Path(os.environ["COLINEAR_DATA"]) / name
    if not path.exists():
        pytest.skip(f"no {name} under COLINEAR_DATA")
    return path


def test_every_label_of_the_gsm8k_rollouts_is_met() -> None:
    frame = read_rollouts(_file("gsm8k/model_solutions.jsonl"))
    grades = grade_many(frame["completion"].to_list(), frame["answer"].to_list())
    found = agreement(frame["reward"].to_list(), grades)
    assert (found.n, found.agree, found.disagreements) == (1319 * 4, 1319 * 4, ())
    assert all(g.extracted is not None for g in grades)


def test_one_label_of_the_math_rollouts_is_not_met_and_is_wrong_itself() -> None:
    frame = read_rollouts(_file("rollouts_math/qwen25math_100x8.jsonl"))
    grades = grade_many(frame["completion"].to_list(), frame["answer"].to_list())
    found = agreement(frame["reward"].to_list(), grades)
    assert (found.n, found.agree) == (800, 799)
    (index,) = found.disagreements
    # The file calls \boxed{10000} wrong where the gold is 10{,}000.
    assert (grades[index].extracted, frame["answer"][index], frame["reward"][index]) == ("10000", "10{,}000", 0.0)
