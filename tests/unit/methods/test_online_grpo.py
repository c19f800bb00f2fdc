"""Online GRPO: which prompts, which advantages, which settings it follows and refuses."""

from __future__ import annotations

from math import sqrt

import polars as pl
import pytest
import torch
from pydantic import ValidationError

from tasks.core.errors import InputError
from tasks.core.sections import TrainSpec
from tasks.methods.common import PROMPT_EXAMPLES
from tasks.methods.online_grpo import OnlineGrpo
from tasks.settings.study import StudySpec
from tests.definitions.losses import group_advantages
from tests.lab.groups import graded


def with_answers(*answers: str | None) -> pl.DataFrame:
    rows = graded(("p1", 1.0), ("p2", 0.0), ("p1", 0.0), ("p3", 0.0))
    return rows.with_columns(answer=pl.Series(answers, dtype=pl.String))


def test_each_problem_with_a_gold_answer_once() -> None:
    rows = with_answers("7", None, "7", "9").with_columns(
        completion_ids=pl.Series([[5, 2], [5, 5, 5, 5, 2], [5, 2], [5, 5, 2]])
    )
    selected = OnlineGrpo().select(rows)
    assert selected.schema == PROMPT_EXAMPLES
    # the longest recorded completion, whoever's it is, has five tokens
    assert selected.rows() == [(0, [1, 1], "7", 5), (3, [1, 3], "9", 5)]
    assert OnlineGrpo(max_new_tokens=40).select(rows)["room"].to_list() == [40, 40]


def test_needs_a_gold_answer() -> None:
    with pytest.raises(InputError, match=r"^methods: online_grpo grades .* no rollout has a gold `answer`; .* without"):
        OnlineGrpo().select(with_answers(None, None, None, None))


def test_advantages_by_hand() -> None:
    # (1, 0, 0, 1): mean 1/2, variance (4 x 1/4) / 3 = 1/3; +- (1/2) / (sqrt(1/3) + 1e-4). All right: 0.
    rewards_PG = torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    value = 0.5 / (sqrt(1 / 3) + 1e-4)
    expected = [pytest.approx([value, -value, -value, value]), [0.0, 0.0, 0.0, 0.0]]
    assert group_advantages(rewards_PG).tolist() == expected


def test_its_steps_are_the_papers_where_the_study_has_more() -> None:
    method = OnlineGrpo()
    assert (method.steps, method.samples, method.lr_ratio) == (600, 8, 1.0)
    long = TrainSpec(steps=1000, schedule_steps=1500, batch_size=32, stop_above_start=5)
    recipe = method.recipe(long)
    assert (recipe.steps, recipe.schedule_steps, recipe.stop_above_start) == (600, None, None)
    assert method.recipe(TrainSpec(steps=80)) == TrainSpec(steps=80)


def test_groups_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 2"):
        OnlineGrpo(samples=1)
    with pytest.raises(ValidationError, match=r"online_grpo\.samples: 8 samples a prompt do not divide train\.batch_s"):
        StudySpec.model_validate({"methods": ["online_grpo"], "train": {"batch_size": 12}})
