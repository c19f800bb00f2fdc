"""DFT, dynamic fine-tuning (2508.05629, eq. 9): sum_t stopgrad(pi(y_t)) * l_t over all rollouts, by the tokens.

TRL's ``loss_type="dft"`` does the training; `token_loss` is the definition it is pinned to in the tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from tasks.methods.common import RowMethod

if TYPE_CHECKING:
    import torch


class Dft(RowMethod):
    """Dynamic fine-tuning: each token's loss weighted by its own probability."""

    trl_loss: ClassVar[str | None] = "dft"

    def token_loss(
        self,
        logprobs_BT: torch.Tensor,
        mask_BT: torch.Tensor,
        weight_B: torch.Tensor,
        behaviour_BT: torch.Tensor | None,
    ) -> torch.Tensor:
        """-stopgrad(exp(log p)) log p, (B, T)."""
        return -logprobs_BT * logprobs_BT.detach().exp() * weight_B[:, None] * mask_BT
