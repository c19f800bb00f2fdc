"""Log-probabilities out of hidden states without a tensor of all tokens and the whole vocabulary, fast on a CPU.

TRL's fused LM head does the same for a GPU. On a CPU it scores prompt tokens too, makes every logit twice, and
multiplies their gradients in float32. Here only the wanted positions are scored; a few rows of logits live at a time;
and each token's gradient is made beside its log-probability, so that the backward pass multiplies by one number a
token. Imports torch: for worker processes.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

ROWS = 256
"""Tokens of one product with the head: 2 bytes a token and entry of the vocabulary, 78 MB at 152k entries."""
BLOCK = 16
"""Tokens whose logits are in float32 at once: they stay in a CPU's cache (20 MB at 152k entries)."""
ENTROPY, SQUARES, MEAN, TOP = "entropy", "log_sum_sq_probs", "mean_logits", "is_top1"


def tile_bytes(vocabulary: int, tokens: float = ROWS) -> float:
    """Most bytes that the logits of a pass over ``tokens`` take at once: see `ROWS` and `BLOCK`."""
    return vocabulary * (2.0 * min(tokens, ROWS) + 3 * 4 * min(tokens, BLOCK))


class WantedLogProbs(torch.autograd.Function):
    """``hidden`` (N, H), head ``weight`` (V, H), ``targets`` (N,) -> five (N,) tensors or None, as TRL's head gives.

    Log-probability of each target in nats, entropy, log of the summed squared probabilities, mean logit, whether the
    target is the likeliest (the first of equals). The last four are made where ``outputs`` names them. Products are in
    the dtype of ``weight``, all else in float32. Only the log-probabilities have a gradient, and only in ``hidden``.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        scale: float,
        outputs: tuple[str, ...],
    ) -> tuple[torch.Tensor | None, ...]:
        """``scale``: what logits are multiplied by."""
        ctx.set_materialize_grads(False)
        tokens, differentiable = len(hidden), ctx.needs_input_grad[0]
        found = {name: torch.empty(tokens) for name in ("log_probs", ENTROPY, SQUARES, MEAN)}
        top_N = torch.zeros(tokens, dtype=torch.bool)
        gradient_NH = torch.empty_like(hidden) if differentiable else None
        for begin in range(0, tokens, ROWS):
            piece = hidden[begin : begin + ROWS].to(weight.dtype)
            logits = piece @ weight.t()
            for at in range(0, len(piece), BLOCK):
                rows = slice(begin + at, min(begin + at + BLOCK, begin + len(piece)))
                raw, target_n1 = logits[at : at + BLOCK], targets[rows, None]
                z = raw.float()
                if scale != 1.0:
                    z.mul_(scale)
                highest_n1 = z.amax(-1, keepdim=True)
                if MEAN in outputs:
                    found[MEAN][rows] = z.mean(-1)
                if TOP in outputs:
                    top_N[rows] = z.argmax(-1) == target_n1[:, 0]
                z.sub_(highest_n1)
                e = z.exp()
                sum_n1 = e.sum(-1, keepdim=True)
                log_n = sum_n1[:, 0].log()
                found["log_probs"][rows] = z.gather(1, target_n1)[:, 0] - log_n
                if ENTROPY in outputs:
                    found[ENTROPY][rows] = log_n - torch.linalg.vecdot(e, z) / sum_n1[:, 0]
                if SQUARES in outputs:
                    found[SQUARES][rows] = torch.linalg.vecdot(e, e).log() - 2 * log_n
                if differentiable:  # d log p / d logits = 1[target] - p
                    e.mul_(-scale / sum_n1)
                    raw.copy_(e.scatter_add_(1, target_n1, torch.full_like(sum_n1, scale)))
            if gradient_NH is not None:
                gradient_NH[begin : begin + ROWS] = logits @ weight
        ctx.save_for_backward(*([] if gradient_NH is None else [gradient_NH]))
        extra = [found[name] if name in outputs else None for name in (ENTROPY, SQUARES, MEAN)]
        extra.append(top_N if TOP in outputs else None)
        ctx.mark_non_differentiable(*(one for one in extra if one is not None))
        return (found["log_probs"], *extra)

    @staticmethod
    def backward(ctx: Any, grad_N: torch.Tensor | None, *_: Any) -> tuple[torch.Tensor | None, ...]:
        """Of the log-probabilities alone."""
        if grad_N is None or not ctx.saved_tensors:
            return None, None, None, None, None
        (gradient_NH,) = ctx.saved_tensors
        return (gradient_NH * grad_N[:, None]).to(gradient_NH.dtype), None, None, None, None


def log_probs(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """(N,) log-probabilities in nats of ``targets`` (N,), from states (N, H) before the head ``weight`` (V, H)."""
    found: torch.Tensor = WantedLogProbs.apply(hidden, weight, targets, scale, ())[0]
    return found


class _Fused:
    """In the place of TRL's autograd function: ours where it can, else TRL's."""

    def __init__(self, theirs: Any) -> None:
        self.theirs = theirs

    def apply(
        self, hidden: Any, weight: Any, bias: Any, targets: Any, temperature: float, chunk: int, softcap: float | None,
        scale: float, outputs: tuple[str, ...],
    ) -> Any:  # fmt: skip
        if bias is not None or softcap is not None or weight.requires_grad:
            return self.theirs.apply(hidden, weight, bias, targets, temperature, chunk, softcap, scale, outputs)
        with torch.autocast(hidden.device.type, enabled=False):
            return WantedLogProbs.apply(hidden, weight, targets, scale / temperature, outputs)


@contextmanager
def _in_place_of_trl() -> Iterator[None]:
    """Within it TRL's fused forward scores the wanted positions only, and by our function."""
    from trl.trainer import utils

    before = utils._ChunkedLogProbFunction, utils._use_triton
    utils._ChunkedLogProbFunction, utils._use_triton = _Fused(before[0]), lambda device: True
    try:
        yield
    finally:
        utils._ChunkedLogProbFunction, utils._use_triton = before


def score_wanted_only(model: Any) -> None:
    """Change ``model``, which has TRL's fused LM head, so that fused calls go through `WantedLogProbs`."""
    theirs = model.forward

    @functools.wraps(type(model).forward)  # `generate` looks at the signature
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not kwargs.get("fused_lm_head"):
            return theirs(*args, **kwargs)
        with _in_place_of_trl():
            return theirs(*args, **kwargs)

    model.forward = types.MethodType(forward, model)
