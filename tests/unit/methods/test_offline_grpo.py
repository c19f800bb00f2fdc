"""Offline GRPO: advantages, and the clipped objective with stored behaviour log-probabilities."""

from __future__ import annotations

from math import log, sqrt

import pytest
import torch

from tasks.core.errors import InputError
from tasks.methods.offline_grpo import OfflineGrpo
from tests.lab.groups import graded, weights

# p1 mixed (mean 1/4), p2 all correct, p3 all wrong; the groups are interleaved.
ROWS = graded(
    ("p1", 1.0), ("p2", 1.0), ("p1", 0.0), ("p3", 0.0), ("p1", 0.0), ("p2", 1.0), ("p1", 0.0), ("p3", 0.0)
)  # fmt: skip


def advantages(method: OfflineGrpo) -> list[float]:
    return list(weights(method.select(ROWS)).values())


def test_papers_form_adds_the_bias_everywhere() -> None:
    # p1: 1 - .25 + .1 = .85 and 0 - .25 + .1 = -.15; p2: 1 - 1 + .1; p3: 0 - 0 + .1
    assert advantages(OfflineGrpo()) == pytest.approx([0.85, 0.1, -0.15, 0.1, -0.15, 0.1, -0.15, 0.1])


def test_bias_of_all_correct_groups_only() -> None:
    expected = [0.75, 0.1, -0.25, 0.0, -0.25, 0.1, -0.25, 0.0]
    assert advantages(OfflineGrpo(bias="all_correct")) == pytest.approx(expected)


def test_no_bias() -> None:
    expected = [0.75, 0.0, -0.25, 0.0, -0.25, 0.0, -0.25, 0.0]
    assert advantages(OfflineGrpo(bias="none")) == pytest.approx(expected)


def test_scale_by_the_groups_standard_deviation() -> None:
    # p1: variance = mean(r^2) - mean(r)^2 = 1/4 - 1/16 = 3/16; the others have none, so 0 / 1e-4 + b = b
    std = sqrt(3 / 16) + 1e-4
    right, wrong = 0.75 / std + 0.1, -0.25 / std + 0.1
    expected = [right, 0.1, wrong, 0.1, wrong, 0.1, wrong, 0.1]
    assert advantages(OfflineGrpo(scale="std")) == pytest.approx(expected)


def test_a_group_of_one_has_no_signal_but_the_bias() -> None:
    for scale in ("none", "std"):
        method = OfflineGrpo.model_validate({"scale": scale})
        assert weights(method.select(graded(("p1", 1.0), ("p2", 0.0)))) == pytest.approx({0: 0.1, 1: 0.1})


def test_unclipped_loss_by_hand() -> None:
    # A = .85 on log 2, A = -.15 on log 4
    logprobs_BT = torch.tensor([[1 / 2, 1.0], [1 / 4, 1 / 3]], dtype=torch.float64).log()
    mask_BT = torch.tensor([[1, 1], [1, 0]])
    terms_BT = OfflineGrpo().token_loss(logprobs_BT, mask_BT, torch.tensor([0.85, -0.15], dtype=torch.float64), None)
    assert terms_BT.tolist() == [pytest.approx([0.85 * log(2), 0.0]), pytest.approx([-0.15 * log(4), 0.0])]


RATIOS = [0.5, 0.9, 1.1, 1.5]  # below, inside, inside, above [0.8, 1.2]


@pytest.mark.parametrize(
    ("advantage", "losses", "slopes"),
    [
        # A > 0: -min(rho, clip(rho)) A; too high a ratio is cut to 1.2, and its gradient with it
        (2.0, [-2 * 0.5, -2 * 0.9, -2 * 1.1, -2 * 1.2], [-2 * 0.5, -2 * 0.9, -2 * 1.1, 0.0]),
        # A < 0: min picks the larger ratio; too low a ratio is raised to 0.8, a high one is not cut
        (-2.0, [2 * 0.8, 2 * 0.9, 2 * 1.1, 2 * 1.5], [0.0, 2 * 0.9, 2 * 1.1, 2 * 1.5]),
    ],
)
def test_clipped_loss_by_hand(advantage: float, losses: list[float], slopes: list[float]) -> None:
    """The slope with respect to log pi is rho times that with respect to rho, since d rho / d log pi = rho."""
    behaviour_BT = torch.tensor([[-0.3, -0.7, -1.1, -2.0, 0.0]], dtype=torch.float64)
    logprobs_BT = behaviour_BT + torch.tensor([[*RATIOS, 7.0]], dtype=torch.float64).log()
    logprobs_BT.requires_grad_()
    mask_BT = torch.tensor([[1, 1, 1, 1, 0]])
    terms_BT = OfflineGrpo(clip=0.2).token_loss(
        logprobs_BT, mask_BT, torch.tensor([advantage], dtype=torch.float64), behaviour_BT
    )
    assert terms_BT[0].tolist() == pytest.approx([*losses, 0.0])
    terms_BT.sum().backward()
    assert logprobs_BT.grad is not None
    assert logprobs_BT.grad[0].tolist() == pytest.approx([*slopes, 0.0])


def test_clip_carries_the_behaviour_log_probabilities_and_the_rest_does_not() -> None:
    frame = graded(("p1", 1.0), ("p1", 0.0), logprobs=True)
    assert OfflineGrpo(clip=0.2).select(frame)["behaviour"].to_list() == [[-0.5, -0.25], [-0.5, -1.25]]
    assert OfflineGrpo().select(frame)["behaviour"].to_list() == [None, None]


def test_clip_without_behaviour_log_probabilities_is_refused() -> None:
    with pytest.raises(InputError, match=r"^offline_grpo\.clip: 8 rollouts have no behaviour log-prob.*leave clip"):
        OfflineGrpo(clip=0.2).select(ROWS)
