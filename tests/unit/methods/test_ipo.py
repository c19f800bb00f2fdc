"""IPO: the loss of a pair and where it draws the margin."""

from __future__ import annotations

import pytest
import torch

from tasks.core.errors import InputError
from tasks.methods.dpo import Dpo
from tasks.methods.ipo import Ipo
from tests.definitions.losses import identity_loss
from tests.lab.groups import graded


def test_loss_and_gradient_by_hand() -> None:
    # beta = 0.5: the margin is drawn to 1.  h = 0.5 - (-0.25) = 0.75: (0.75 - 1)^2 = 0.0625, dh = 2 (0.75 - 1) = -0.5
    # h = 2 - 0.5 = 1.5, too large: (1.5 - 1)^2 = 0.25, dh = 1.  Unlike DPO's, the loss then pushes the pair together.
    chosen_B = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)
    rejected_B = torch.tensor([-0.25, 0.5], dtype=torch.float64, requires_grad=True)
    losses_B = identity_loss(chosen_B, rejected_B, beta=0.5)
    assert losses_B.tolist() == pytest.approx([0.0625, 0.25])
    losses_B.sum().backward()
    assert chosen_B.grad is not None
    assert rejected_B.grad is not None
    assert chosen_B.grad.tolist() == pytest.approx([-0.5, 1.0])
    assert rejected_B.grad.tolist() == pytest.approx([0.5, -1.0])


def test_its_pairs_are_dpos_and_it_is_refused_by_its_own_name() -> None:
    rows = graded(("p1", 1.0), ("p1", 0.0), ("p2", 1.0), ("p1", 0.0))
    assert Ipo().select(rows).equals(Dpo().select(rows))
    with pytest.raises(InputError, match=r"^methods: ipo needs a problem with both .* without ipo$"):
        Ipo().select(graded(("p1", 1.0), ("p2", 0.0)))
