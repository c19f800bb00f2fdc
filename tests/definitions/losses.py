"""The losses of the methods that TRL trains, each from its paper; the tests pin TRL's to them."""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

STD_FLOOR = 1e-4  # TRL's


def preference_loss(
    chosen_B: torch.Tensor,
    rejected_B: torch.Tensor,
    ref_chosen_B: torch.Tensor,
    ref_rejected_B: torch.Tensor,
    beta: float,
) -> torch.Tensor:
    """Sequence log-probabilities of B pairs under policy and reference -> (B,) losses (2305.18290, eq. 7)."""
    return -logsigmoid(beta * ((chosen_B - ref_chosen_B) - (rejected_B - ref_rejected_B)))


def identity_loss(ratio_chosen_B: torch.Tensor, ratio_rejected_B: torch.Tensor, beta: float) -> torch.Tensor:
    """Log-ratios to the reference of B pairs, means over tokens in nats -> (B,) losses (2310.12036, eq. 17)."""
    return (ratio_chosen_B - ratio_rejected_B - 1 / (2 * beta)) ** 2


def margin_loss(chosen_B: torch.Tensor, rejected_B: torch.Tensor, beta: float, gamma: float) -> torch.Tensor:
    """Mean log-probabilities a token of B pairs -> (B,) losses (2405.14734, eq. 6)."""
    return -logsigmoid(beta * (chosen_B - rejected_B) - gamma)


def prospect_loss(
    ratio_B: torch.Tensor, correct_B: torch.Tensor, kl: float, beta: float, desirable: float, undesirable: float
) -> torch.Tensor:
    """Log-ratios of B completions to the reference, whether each is right, and z -> (B,) losses (2402.01306, eq. 7)."""
    gain_B = 1 - (beta * (ratio_B - kl)).sigmoid()
    loss_B = 1 - (beta * (kl - ratio_B)).sigmoid()
    return (desirable * gain_B).where(correct_B, undesirable * loss_B)


def mixed_divergence(student_NV: torch.Tensor, teacher_NV: torch.Tensor, beta: float) -> torch.Tensor:
    """Logits of N tokens -> (N,) generalised Jensen-Shannon divergences in nats (2306.13649, eq. 1): with the mixture
    m = beta teacher + (1 - beta) student, beta KL(teacher || m) + (1 - beta) KL(student || m); at 0 and 1 the KL
    divergences that it tends to over beta and over 1 - beta: KL(teacher || student) and KL(student || teacher)."""
    student, teacher = student_NV.softmax(-1), teacher_NV.softmax(-1)

    def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        return (p * (p.log() - q.log())).sum(-1)

    if beta in (0.0, 1.0):
        return kl(student, teacher) if beta else kl(teacher, student)
    mixture = beta * teacher + (1 - beta) * student
    return beta * kl(teacher, mixture) + (1 - beta) * kl(student, mixture)


def group_advantages(rewards_PG: torch.Tensor) -> torch.Tensor:
    """Rewards of P prompts with G samples each -> (P, G) advantages, as ``scale = "group"`` (2402.03300)."""
    centred_PG = rewards_PG - rewards_PG.mean(1, keepdim=True)
    return centred_PG / (rewards_PG.std(1, keepdim=True) + STD_FLOOR)
