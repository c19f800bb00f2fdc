"""SimPO: the loss of a pair, and that it is the one in TRL's experimental CPOTrainer."""

from __future__ import annotations

from math import exp, log
from types import SimpleNamespace

import pytest
import torch

from tasks.core.errors import InputError
from tasks.methods.simpo import Simpo
from tests.definitions.losses import margin_loss
from tests.lab.groups import graded

CHOSEN_B = torch.tensor([-0.5, -2.0, -0.1], dtype=torch.float64)
REJECTED_B = torch.tensor([-1.0, -0.5, -3.0], dtype=torch.float64)


def test_loss_by_hand() -> None:
    # beta = 2, gamma = 0.5: 2 (-0.5 + 1) - 0.5 = 0.5; 2 (-2 + 0.5) - 0.5 = -3.5; 2 (-0.1 + 3) - 0.5 = 5.3
    # -log sigmoid(x) = log(1 + exp(-x))
    losses_B = margin_loss(CHOSEN_B, REJECTED_B, beta=2.0, gamma=0.5)
    assert losses_B.tolist() == pytest.approx([log(1 + exp(-x)) for x in (0.5, -3.5, 5.3)])


def test_gradient_raises_the_chosen_and_lowers_the_rejected() -> None:
    # d/dx of -log sigmoid(x) is sigmoid(x) - 1, times beta: at x = 0.5 it is 2 (1 / (1 + e^-0.5) - 1) = -0.755
    chosen_B, rejected_B = CHOSEN_B.clone().requires_grad_(), REJECTED_B.clone().requires_grad_()
    margin_loss(chosen_B, rejected_B, beta=2.0, gamma=0.5).sum().backward()
    assert chosen_B.grad is not None
    assert rejected_B.grad is not None
    expected = [2 * (1 / (1 + exp(-x)) - 1) for x in (0.5, -3.5, 5.3)]
    assert chosen_B.grad.tolist() == pytest.approx(expected)
    assert rejected_B.grad.tolist() == pytest.approx([-value for value in expected])


@pytest.mark.filterwarnings("ignore:You are importing from")
@pytest.mark.parametrize(("beta", "gamma"), [(2.0, 1.0), (2.5, 0.0), (10.0, 3.0)])
def test_it_is_trls_simpo(beta: float, gamma: float) -> None:
    from trl.experimental.cpo import CPOTrainer

    trainer = SimpleNamespace(
        alpha=0.0, beta=beta, simpo_gamma=gamma, loss_type="simpo", label_smoothing=0.0,
        accelerator=SimpleNamespace(device="cpu"),
    )  # fmt: skip
    theirs_B = CPOTrainer.cpo_loss(trainer, CHOSEN_B, REJECTED_B)[0]
    assert margin_loss(CHOSEN_B, REJECTED_B, beta, gamma).tolist() == pytest.approx(theirs_B.tolist(), rel=1e-12)


def test_needs_a_mixed_group() -> None:
    with pytest.raises(InputError, match=r"^methods: simpo needs a problem with both .* without simpo$"):
        Simpo().select(graded(("p1", 1.0), ("p2", 0.0)))
