"""ASFT's trainer: the weighted loss, and the divergence from the base at every completion token.

The divergence needs both whole distributions. What is kept of them is each token's last hidden state; their logits are
made a few hundred tokens at a time, in the backward pass once more. Imports torch and TRL: for worker processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from tasks.core.errors import InputError
from tasks.methods.asft import Asft, divergence
from tasks.training.trainers import WeightedSFTTrainer

TOKENS = 512
"""Of a piece: 512 x 152k logits in float32 are 0.3 GB, and a handful of such tensors live at once."""
RESHAPED = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
"""Settings of models whose logits are more than a product with the LM head."""


class AnchoredSFTTrainer(WeightedSFTTrainer):
    """`WeightedSFTTrainer` plus ``anchor`` times the summed KL(base || policy), by the tokens of the whole batch."""

    def __init__(self, *args: Any, method: Asft, **kwargs: Any) -> None:
        super().__init__(*args, method=method, **kwargs)
        self.anchor = method.anchor
        config = self.model.config.get_text_config()
        changed = [name for name in RESHAPED if getattr(config, name, None) not in (None, 1.0)]
        if changed:
            raise InputError(f"methods: asft cannot anchor {config.model_type}, whose config sets {changed[0]}")

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of one micro-batch, a scalar."""
        batch = {name: inputs[name] for name in ("input_ids", "attention_mask", "labels")}
        with last_states(self.model) as states:
            with torch.no_grad(), self.model.disable_adapter():
                model(**batch, use_cache=False, fused_lm_head=True)
            loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        base_NH, policy_NH = (completion_states(state, batch) for state in states)
        head = self.model.get_output_embeddings()
        kl_N = divergences(policy_NH, base_NH, head.weight, head.bias)
        self._metrics["train"]["anchor_kl"].append(kl_N.detach().mean().item())
        tokens = len(kl_N) if num_items_in_batch is None else num_items_in_batch
        return loss + self.anchor * kl_N.sum() / torch.as_tensor(tokens).clamp(min=1)


@contextmanager
def last_states(model: Any) -> Iterator[list[torch.Tensor]]:
    """Within it, every pass through ``model`` (PEFT) leaves its last hidden states in the list."""
    states: list[torch.Tensor] = []
    hook = model.get_base_model().base_model.register_forward_hook(
        lambda module, inputs, outputs: states.append(outputs.last_hidden_state)
    )
    try:
        yield states
    finally:
        hook.remove()


def completion_states(state: torch.Tensor, batch: dict[str, Any]) -> torch.Tensor:
    """(N, H) states that predict the N completion tokens, in reading order, of a padded (B, T, H) or a packed pass."""
    mask_BT = torch.nn.functional.pad(batch["labels"][:, 1:].ne(-100), (0, 1))
    if state.shape[:2] == mask_BT.shape:
        return state[mask_BT]
    return state[0][mask_BT[batch["attention_mask"].bool()]]  # one row of all real tokens: see `tasks.training.packing`


def divergences(
    policy_NH: torch.Tensor, base_NH: torch.Tensor, weight_VH: torch.Tensor, bias_V: torch.Tensor | None
) -> torch.Tensor:
    """(N,) KL(base || policy) in nats, from hidden states before the LM head that both share."""

    def piece(policy: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
        logits = (torch.nn.functional.linear(states, weight_VH, bias_V).float() for states in (policy, base))
        return divergence(*logits)

    pairs = zip(policy_NH.split(TOKENS), base_NH.split(TOKENS), strict=True)
    return torch.cat([checkpoint(piece, policy, base, use_reentrant=False) for policy, base in pairs])
