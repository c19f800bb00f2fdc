"""RIFT in its three forms."""

from __future__ import annotations

from math import exp, log

import pytest
import torch

from tasks.methods.rift import Rift
from tests.lab.groups import graded, weights

ROWS = graded(("p1", 1.0), ("p1", 0.0), ("p2", 0.0))


def test_linear_and_stabilized_weigh_by_rifts_rewards() -> None:
    assert weights(Rift().select(ROWS)) == {0: 1.0, 1: -0.2, 2: -0.2}
    assert weights(Rift(form="stabilized").select(ROWS)) == {0: 1.0, 1: -0.2, 2: -0.2}
    assert weights(Rift(correct_weight=2.0, wrong_weight=-0.5).select(ROWS)) == {0: 2.0, 1: -0.5, 2: -0.5}


def test_as_printed_weighs_correct_rollouts_less() -> None:
    # 1 - lambda r: correct 1 - 0.5 * 1, wrong 1 - 0.5 * 0; lambda = 0.25: 0.75
    assert weights(Rift(form="as_printed").select(ROWS)) == {0: 0.5, 1: 1.0, 2: 1.0}
    assert weights(Rift(form="as_printed", lam=0.25).select(ROWS)) == {0: 0.75, 1: 1.0, 2: 1.0}


def arguments() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
    """A correct row with p = 1/2, 1/4 and a wrong one with p = 1/2, 1/8 and a masked position."""
    logprobs_BT = torch.tensor([[1 / 2, 1 / 4, 1.0], [1 / 2, 1 / 8, 1 / 9]], dtype=torch.float64).log()
    mask_BT = torch.tensor([[1, 1, 0], [1, 1, 0]])
    return logprobs_BT.requires_grad_(), mask_BT, torch.tensor([1.0, -0.2], dtype=torch.float64), None


@pytest.mark.parametrize("form", ["linear", "as_printed"])
def test_linear_loss_by_hand(form: str) -> None:
    # correct: log 2, log 4; wrong: -0.2 log 2, -0.2 log 8
    terms_BT = Rift.model_validate({"form": form}).token_loss(*arguments())
    expected = [[log(2), log(4), 0.0], [-0.2 * log(2), -0.2 * log(8), 0.0]]
    assert terms_BT.tolist() == [pytest.approx(row) for row in expected]


def test_stabilized_loss_and_gradient_by_hand() -> None:
    # Wrong row: pi = exp((log 1/2 + log 1/8) / 2) = (1/16)^(1/2) = 1/4, T = 2.
    # -r pi T = 0.2 * 1/4 * 2 = 0.1, spread over 2 tokens: 0.05 each.
    # d/d(log p_t) of 0.2 T pi = 0.2 T pi / T = 0.05. Correct row as in SFT: gradient -1 a token.
    logprobs_BT, mask_BT, weight_B, _ = arguments()
    terms_BT = Rift(form="stabilized").token_loss(logprobs_BT, mask_BT, weight_B, None)
    assert terms_BT.tolist() == [pytest.approx([log(2), log(4), 0.0]), pytest.approx([0.05, 0.05, 0.0])]
    terms_BT.sum().backward()
    assert logprobs_BT.grad is not None
    assert logprobs_BT.grad.tolist() == [pytest.approx([-1.0, -1.0, 0.0]), pytest.approx([0.05, 0.05, 0.0])]


def test_stabilized_stays_finite_where_the_plain_probability_underflows() -> None:
    # 4,000 tokens of p = exp(-2): pi^T = exp(-8000) = 0 in float64, the length-normalised pi is exp(-2)
    logprobs_BT, mask_BT = torch.full((1, 4000), -2.0, dtype=torch.float64), torch.ones(1, 4000)
    terms_BT = Rift(form="stabilized").token_loss(logprobs_BT, mask_BT, torch.tensor([-0.2]), None)
    assert float(terms_BT.sum()) == pytest.approx(0.2 * exp(-2) * 4000)
