"""Every rollout gets its reward: the label that came with it, else math-verify's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tasks.core.errors import InputError
from tasks.core.frames import GRADED, ROLLOUTS
from tasks.grading.grade import GRADER
from tasks.grading.rollouts import counts, grade_rollouts


def row(problem: str, completion: str, answer: str | None, given: float | None, finish: str = "stop") -> dict[str, Any]:
    return {
        "problem_id": problem, "rollout_id": 0, "prompt": "q", "completion": completion, "prompt_ids": [1],
        "completion_ids": [2], "logprobs": None, "finish_reason": finish, "seed": 0, "answer": answer,
        "given_reward": given,
    }  # fmt: skip


def grade(tmp_path: Path, *rows: dict[str, Any]) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, Any]]:
    pl.DataFrame(list(rows), schema=ROLLOUTS).write_parquet(tmp_path / "in.parquet")
    out = tmp_path / "out"
    out.mkdir()
    summary = grade_rollouts(rollouts=tmp_path / "in.parquet", out=out)
    return pl.read_parquet(out / "rollouts.parquet"), pl.read_parquet(out / "disagreements.parquet"), summary


def test_the_label_wins_and_the_grader_fills_in(tmp_path: Path) -> None:
    graded, disagreements, summary = grade(
        tmp_path,
        row("a", r"so \boxed{4}", "4", None),  # graded right
        row("a", r"so \boxed{5}", "4", None),  # graded wrong
        row("b", r"\boxed{4}", "4", 0.0),  # labelled wrong, the grader says right
        row("b", r"\boxed{4}", "4", 1.0),  # labelled right, the grader agrees
        row("c", "no gold", None, 1.0),  # label only
        row("d", "", "4", None, "length"),  # nothing to read
    )
    assert dict(graded.schema) == GRADED
    assert graded["reward"].to_list() == [1.0, 0.0, 0.0, 1.0, 1.0, 0.0]
    assert graded["grader"].to_list() == [GRADER, GRADER, "given", "given", "given", GRADER]
    assert graded["extracted"].to_list() == ["4", "5", "4", "4", None, None]
    assert graded.select(ROLLOUTS.keys()).rows() == pl.read_parquet(tmp_path / "in.parquet").rows()
    assert disagreements.select("problem_id", "given_reward", "extracted").rows() == [("b", 0.0, "4")]
    assert summary == {
        "rows": 6, "prompts": 4, "correct": 3, "mixed_groups": 2, "all_correct_groups": 1, "unparsed": 1,
        "truncated": 1, "empty": 1, "unparsed_gold": 0, "label_and_grader_compared": 2, "label_and_grader_disagree": 1,
    }  # fmt: skip


def test_labels_alone_need_no_grader(tmp_path: Path) -> None:
    graded, disagreements, summary = grade(tmp_path, row("a", "x", None, 1.0), row("a", "y", None, 0.0))
    assert graded["reward"].to_list() == [1.0, 0.0]
    assert graded["grader"].to_list() == ["given", "given"]
    assert disagreements.is_empty()
    assert summary["label_and_grader_compared"] == summary["label_and_grader_disagree"] == 0
    assert (summary["unparsed"], summary["mixed_groups"]) == (0, 1)


def test_a_gold_that_cannot_be_read_is_counted_where_labels_decide_and_refused_where_they_do_not(
    tmp_path: Path,
) -> None:
    graded, disagreements, summary = grade(
        tmp_path,
        row("a", r"\boxed{4}", r"\frac{1}{", 1.0),  # the label stands; there is nothing to compare it with
        row("b", r"\boxed{4}", "4", 1.0),
    )
    assert graded["reward"].to_list() == [1.0, 1.0]
    assert disagreements.is_empty()
    assert (summary["unparsed_gold"], summary["unparsed"]) == (1, 0)
    assert (summary["label_and_grader_compared"], summary["label_and_grader_disagree"]) == (1, 0)
    (tmp_path / "again").mkdir()
    with pytest.raises(InputError, match=r"^rollouts\.file: the gold of problem 'c' cannot be read .* give a reward"):
        grade(tmp_path / "again", row("c", r"\boxed{4}", r"\frac{1}{", None))


def test_counts_of_groups() -> None:
    frame = pl.DataFrame(
        {
            "problem_id": ["m", "m", "m", "r", "r", "w"], "reward": [1.0, 0.0, 0.0, 1.0, 1.0, 0.0],
            "answer": ["1"] * 5 + [None], "extracted": ["1", None, "2", "1", "1", None],
            "finish_reason": ["stop", "length", "stop", "stop", "stop", "length"],
            "completion": ["x", "", "x", "x", "x", "x"],
        }
    )  # fmt: skip
    # groups: m mixed, r all right, w all wrong (neither); unparsed: row 2 only, as w has no gold to compare with
    assert counts(frame) == {
        "rows": 6, "prompts": 3, "correct": 3, "mixed_groups": 1, "all_correct_groups": 1, "unparsed": 1,
        "truncated": 2, "empty": 1,
    }  # fmt: skip


def test_a_frame_of_another_schema_is_refused(tmp_path: Path) -> None:
    pl.DataFrame({"completion": ["x"]}).write_parquet(tmp_path / "in.parquet")
    with pytest.raises(InputError, match=r"^rollouts: missing columns \['problem_id', "):
        grade_rollouts(rollouts=tmp_path / "in.parquet", out=tmp_path)
