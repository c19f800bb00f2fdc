"""Log-probabilities of wanted tokens against the definition on whole logits, and in the place of TRL's fused head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from trl.trainer import utils
from trl.trainer.utils import add_fused_lm_head

from tasks.models import head
from tasks.models.head import WantedLogProbs, log_probs, score_wanted_only
from tests.lab.models import small_model

OUTPUTS = ("entropy", "log_sum_sq_probs", "mean_logits", "is_top1")


def test_by_hand() -> None:
    """States 1 and 2 against heads 0 and ln 3: p = (1/4, 3/4) and (1/10, 9/10)."""
    weight = torch.tensor([[0.0], [torch.tensor(3.0).log()]])
    found = log_probs(torch.tensor([[1.0], [2.0]]), weight, torch.tensor([0, 1]))
    assert torch.allclose(found, torch.tensor([0.25, 0.9]).log(), atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_against_the_definition(monkeypatch: pytest.MonkeyPatch, scale: float) -> None:
    """23 tokens in products of 10 and blocks of 4, so that none of the sizes divides another; in float32 to 1e-6."""
    monkeypatch.setattr(head, "ROWS", 10)
    monkeypatch.setattr(head, "BLOCK", 4)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(23, 8, generator=generator, requires_grad=True)
    weight = torch.randn(50, 8, generator=generator)
    targets = torch.randint(0, 50, (23,), generator=generator)
    found = WantedLogProbs.apply(hidden, weight, targets, scale, OUTPUTS)
    wanted = torch.randn(23, generator=generator)
    (gradient,) = torch.autograd.grad((found[0] * wanted).sum(), hidden)
    logits = scale * hidden @ weight.t()
    logp = logits.log_softmax(-1)
    expected = logp.gather(1, targets[:, None])[:, 0]
    (definition,) = torch.autograd.grad((expected * wanted).sum(), hidden)
    others = -(logp.exp() * logp).sum(-1), (2 * logp).exp().sum(-1).log(), logits.mean(-1)
    for one, other in zip(found, (expected, *others), strict=False):
        assert torch.allclose(one, other, atol=1e-5)
    assert torch.equal(found[4], logits.argmax(-1) == targets)
    assert torch.allclose(gradient, definition, atol=1e-5)


def test_of_equal_logits_the_first_is_the_likeliest() -> None:
    found = WantedLogProbs.apply(torch.ones(2, 1), torch.ones(3, 1), torch.tensor([0, 1]), 1.0, ("is_top1",))
    assert found[4].tolist() == [True, False]


def make_model() -> Any:
    model = small_model().train()
    model.get_output_embeddings().weight.requires_grad_(False)
    add_fused_lm_head(model, outputs=("log_probs", *OUTPUTS))
    return model


def test_in_the_place_of_trl_s_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same outputs and gradients for a padded batch, of which only the completion's positions are scored; after
    the call TRL's own is back."""
    theirs, ours = make_model(), make_model()
    score_wanted_only(ours)
    before = utils._ChunkedLogProbFunction, utils._use_triton
    scored: list[int] = []
    function = WantedLogProbs.forward
    monkeypatch.setattr(
        WantedLogProbs, "forward", lambda ctx, hidden, *rest: scored.append(len(hidden)) or function(ctx, hidden, *rest)
    )
    ids = torch.randint(3, 50, (2, 9), generator=torch.Generator().manual_seed(1))
    labels = ids.masked_fill(torch.arange(9) < 4, -100)
    found = []
    for model in (theirs, ours):
        outputs = model(input_ids=ids, labels=labels, use_cache=False, fused_lm_head=True)
        outputs.log_probs.sum().backward()
        found.append((outputs, model.model.layers[0].self_attn.q_proj.weight.grad))
    for name in ("log_probs", *OUTPUTS, "loss"):
        left, right = (getattr(outputs, name) for outputs, _ in found)
        assert torch.allclose(left.float(), right.float(), atol=1e-5), name
    assert torch.allclose(found[0][1], found[1][1], atol=1e-5)
    assert scored == [2 * 5]  # 9 tokens, of which the last 5 are the completion's
    assert (utils._ChunkedLogProbFunction, utils._use_triton) == before
