"""ASFT: DFT's terms, and the divergence that anchors them."""

from __future__ import annotations

from math import log

import pytest
import torch

from tasks.methods.asft import Asft, divergence
from tasks.methods.dft import Dft


def test_divergence_and_its_gradient_by_hand() -> None:
    # policy (1/2, 1/2), base (4/5, 1/5): KL(base || policy) = 0.8 log(0.8 / 0.5) + 0.2 log(0.2 / 0.5) = 0.19274
    # (the other direction would be 0.5 log(0.5 / 0.8) + 0.5 log(0.5 / 0.2) = 0.22314).
    # d/d(policy logits) = policy - base = (-0.3, 0.3): a step down brings the policy nearer to the base.
    policy_NV = torch.tensor([[3.0, 3.0]], dtype=torch.float64, requires_grad=True)
    base_NV = torch.tensor([[log(4.0), 0.0]], dtype=torch.float64)
    kl_N = divergence(policy_NV, base_NV)
    assert kl_N.tolist() == pytest.approx([0.8 * log(1.6) + 0.2 * log(0.4)])
    assert kl_N.tolist() == pytest.approx([0.192745], abs=1e-6)
    kl_N.sum().backward()
    assert policy_NV.grad is not None
    assert policy_NV.grad[0].tolist() == pytest.approx([-0.3, 0.3])


def test_divergence_is_zero_only_at_the_base_and_knows_no_shift_of_logits() -> None:
    generator = torch.Generator().manual_seed(1)
    policy_NV, base_NV = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64)
    assert divergence(base_NV + 4.0, base_NV).abs().max() < 1e-12
    assert bool((divergence(policy_NV, base_NV) > 0.01).all())


def test_its_terms_are_dfts() -> None:
    generator = torch.Generator().manual_seed(2)
    logprobs_BT = -torch.rand(3, 4, generator=generator)
    arguments = (logprobs_BT, torch.ones(3, 4), torch.ones(3), None)
    assert torch.equal(Asft().token_loss(*arguments), Dft().token_loss(*arguments))
