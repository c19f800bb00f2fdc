"""KTO: which rollouts it takes, with which label, and the loss of one."""

from __future__ import annotations

from math import exp

import pytest
import torch
from pydantic import ValidationError

from tasks.core.errors import InputError
from tasks.methods.kto import Kto
from tasks.settings.study import StudySpec
from tests.definitions.losses import prospect_loss
from tests.lab.groups import graded, weights


def test_loss_and_gradient_by_hand() -> None:
    # beta 1, z = 0.5. Correct, ratio 2: 1 - s(2 - 0.5) = 1 - s(1.5). Wrong, ratio -1, lambda 2: 2 (1 - s(0.5 + 1)).
    # Wrong, ratio 3: 2 (1 - s(0.5 - 3)) = 2 (1 - s(-2.5)). d(1 - s(x)) = -s(x) s(-x): the correct one is raised.
    ratio_B = torch.tensor([2.0, -1.0, 3.0], dtype=torch.float64, requires_grad=True)
    correct_B = torch.tensor([True, False, False])
    losses_B = prospect_loss(ratio_B, correct_B, kl=0.5, beta=1.0, desirable=1.0, undesirable=2.0)
    s = [1 / (1 + exp(-x)) for x in (1.5, 1.5, -2.5)]
    assert losses_B.tolist() == pytest.approx([1 - s[0], 2 * (1 - s[1]), 2 * (1 - s[2])])
    losses_B.sum().backward()
    assert ratio_B.grad is not None
    expected = [-s[0] * (1 - s[0]), 2 * s[1] * (1 - s[1]), 2 * s[2] * (1 - s[2])]
    assert ratio_B.grad.tolist() == pytest.approx(expected)


def test_every_rollout_with_the_sign_of_its_reward() -> None:
    selected = Kto().select(graded(("p1", 1.0), ("p2", 0.0), ("p1", 0.0)))
    assert weights(selected) == {0: 1.0, 1: -1.0, 2: -1.0}


@pytest.mark.parametrize(("reward", "missing"), [(1.0, "wrong"), (0.0, "correct")])
def test_needs_right_and_wrong_rollouts(reward: float, missing: str) -> None:
    with pytest.raises(InputError, match=rf"^methods: kto needs .* none is {missing}; .* without kto$"):
        Kto().select(graded(("p1", reward), ("p2", reward)))


def test_a_batch_of_one_is_refused_where_kto_is_trained() -> None:
    with pytest.raises(ValidationError, match=r"train\.batch_size: kto needs at least 2 sequences a step"):
        StudySpec.model_validate({"methods": ["kto"], "train": {"batch_size": 1}})
    assert StudySpec.model_validate({"methods": ["sft"], "train": {"batch_size": 1}}).train.batch_size == 1
