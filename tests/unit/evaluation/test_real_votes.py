"""Majority votes over real samples: what counting answers by value instead of by text changes."""

from __future__ import annotations

import polars as pl
import pytest

from tasks.core.frames import ITEMS
from tasks.evaluation.samples import maj_at_k, samples_table
from tasks.grading.grade import grade_many
from tasks.rollouts.files import read_rollouts
from tests.lab.real_problems import real_data


def test_votes_of_the_math_rollouts_by_value_and_by_text() -> None:
    """100 problems x 8 answers (QwenLM/Qwen2.5-Math): the two ways agree on every problem, as docs/grading.md says."""
    frame = read_rollouts(real_data("rollouts_math/qwen25math_100x8.jsonl"))
    grades = grade_many(frame["completion"].to_list(), frame["answer"].to_list())
    items = frame.select("problem_id", "completion", gold="answer").with_columns(
        run=pl.lit("real"), method=pl.lit("real"), benchmark=pl.lit("math"),
        seed=0, data_seed=0, lr=0.0, finish_reason=pl.lit("stop"), answer_nll=0.0, answer_tokens=1,
        sample=pl.int_range(1, pl.len() + 1).over("problem_id"),
        prediction=pl.Series([grade.extracted for grade in grades], dtype=pl.String),
        correct=pl.Series([grade.reward == 1 for grade in grades]),
    )  # fmt: skip
    assert items.height == 800
    table = samples_table(items.select(pl.col(column).cast(kind) for column, kind in ITEMS.items()))
    by_value = {row["metric"]: row["value"] for row in table.iter_rows(named=True)}

    by_text = []
    for _, problem in items.group_by("problem_id"):
        votes = problem.drop_nulls("prediction").group_by("prediction").agg(pl.len(), pl.col("correct").first())
        unparsed = problem["prediction"].null_count()
        by_text.append(maj_at_k(votes["len"].to_list(), votes["correct"].cast(pl.Float64).to_list(), unparsed, 8))
    assert by_value["avg"] == pytest.approx(0.91125)
    assert by_value["maj"] == pytest.approx(0.925)
    assert sum(by_text) / 100 == pytest.approx(0.925)
