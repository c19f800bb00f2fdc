"""DFT: each token's loss times its own probability, through which no gradient flows."""

from __future__ import annotations

from math import log

import pytest
import torch

from tasks.methods.dft import Dft
from tests.lab.groups import graded, weights


def test_loss_and_gradient_by_hand() -> None:
    # p = 1/2, 1/4 | 1/8, masked.  terms: 1/2 log 2, 1/4 log 4 | 1/8 log 8, 0
    # d/d(log p) of -stopgrad(p) log p is -p; without the stop it would be -p (1 + log p).
    logprobs_BT = torch.tensor([[1 / 2, 1 / 4], [1 / 8, 1 / 3]], dtype=torch.float64).log().requires_grad_()
    mask_BT = torch.tensor([[1, 1], [1, 0]])
    terms_BT = Dft().token_loss(logprobs_BT, mask_BT, torch.ones(2, dtype=torch.float64), None)
    assert terms_BT.tolist() == [pytest.approx([log(2) / 2, log(4) / 4]), pytest.approx([log(8) / 8, 0.0])]
    terms_BT.sum().backward()
    assert logprobs_BT.grad is not None
    assert logprobs_BT.grad.tolist() == [pytest.approx([-1 / 2, -1 / 4]), pytest.approx([-1 / 8, 0.0])]


def test_keeps_every_rollout() -> None:
    assert weights(Dft().select(graded(("p1", 0.0), ("p1", 1.0)))) == {0: 1.0, 1: 1.0}
