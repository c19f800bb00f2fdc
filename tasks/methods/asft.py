"""ASFT, anchored supervised fine-tuning (2509.23753): DFT's loss + anchor * sum_t KL(base || pi at token t), by tokens.

The KL is over the whole vocabulary at every completion token. Its direction and its weight of .1 are those of the
authors' code (zhuchichi56/ASFT, ``train.py``: ``F.kl_div(log_softmax(policy), softmax(base))``); we had no access to
the paper's formula. Theirs keeps a second model as the base, ours is the same weights with the adapter off.
`tasks.training.anchored` trains it, without ever holding all logits. With ``anchor = 0`` it would be DFT.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from tasks.methods.dft import Dft

if TYPE_CHECKING:
    import torch


class Asft(Dft):
    """Dynamic fine-tuning, held near the base."""

    trl_loss: ClassVar[str | None] = None
    anchor: float = Field(0.1, title="Weight of the KL divergence from the base", gt=0, le=100)


def divergence(policy_NV: torch.Tensor, base_NV: torch.Tensor) -> torch.Tensor:
    """Logits of N tokens -> (N,) KL(base || policy), nats."""
    policy_NV, base_NV = policy_NV.log_softmax(-1), base_NV.log_softmax(-1)
    return (base_NV.exp() * (base_NV - policy_NV)).sum(-1)
