"""How likely rollouts are to the base: by hand, and against each sequence alone in double precision."""

from __future__ import annotations

from math import log

import polars as pl
import pytest
import torch

from tasks.core.chance import student
from tasks.training.policy import on_policy
from tasks.training.reference import scored
from tests.lab.world import World, make_graded, token_logprobs


def test_values_and_intervals_by_hand() -> None:
    """Two problems: a right row with p = 1/2, 1/20; a wrong one with 1/4; the other's right row with 1/8 four times."""
    graded = pl.DataFrame(
        {
            "problem_id": ["p", "p", "q"],
            "reward": [1.0, 0.0, 1.0],
            "prompt_ids": [[1, 2], [1, 2], [1]],
            "completion_ids": [[5, 6], [5], [5, 6, 7, 8]],
        }
    )
    # Places before and after a completion hold no token of it.
    first = torch.tensor([[0.0, log(1 / 2), log(1 / 20), 0.0], [0.0, log(1 / 4), 0.0, 0.0]], dtype=torch.float64)
    other = torch.full((1, 4), log(1 / 8), dtype=torch.float64)
    found = {row["answers"]: row for row in on_policy(graded, [([0, 1], first), ([2], other)]).rows(named=True)}
    assert {name: (row["rows"], row["tokens"]) for name, row in found.items()} == {
        "all": (3, 7), "right": (2, 6), "wrong": (1, 1),
    }  # fmt: skip
    p, q = log(2 * 20 * 4), 4 * log(8)
    assert found["all"]["nll"] == pytest.approx((p + q) / 7)
    assert found["all"]["unlikely"] == pytest.approx(1 / 7)
    assert found["right"]["nll"] == pytest.approx((log(40) + q) / 6)
    assert (found["wrong"]["nll"], found["wrong"]["unlikely"]) == pytest.approx((log(4), 0.0))
    # Off the ratio: p by its 3 tokens, q by its 4, one the negative of the other; sqrt(2 / 1 x 2 off^2) / 7.
    off = p - 3 * (p + q) / 7
    half = student(1) * 2 * abs(off) / 7
    assert found["all"]["nll_high"] == pytest.approx((p + q) / 7 + half)
    assert (found["all"]["nll_low"], found["wrong"]["nll_low"]) == (max(0.0, (p + q) / 7 - half), None)


def test_on_a_model_it_is_that_of_each_sequence_alone(world: World) -> None:
    from transformers import AutoModelForCausalLM

    graded = make_graded()
    model = AutoModelForCausalLM.from_pretrained(world.base, dtype=torch.float64)
    own = [token_logprobs(model, row["prompt_ids"], row["completion_ids"]) for row in graded.rows(named=True)]
    found = on_policy(graded, scored(world.base, graded, "float32", None))
    everything = torch.cat(own)
    assert found["nll"][0] == pytest.approx(-float(everything.mean()), rel=1e-5)
    assert found["unlikely"][0] == pytest.approx(float((everything.exp() < 0.1).double().mean()), abs=1e-9)
    wrong = torch.cat([one for one, reward in zip(own, graded["reward"], strict=True) if reward == 0.0])
    assert found.filter(answers="wrong")["nll"][0] == pytest.approx(-float(wrong.mean()), rel=1e-5)
    assert found["rows"].to_list() == [48, *(int((graded["reward"] == grade).sum()) for grade in (1.0, 0.0))]
    assert found["nll_low"][0] < found["nll"][0] < found["nll_high"][0]
