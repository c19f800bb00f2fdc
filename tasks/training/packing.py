"""Training without padding: a batch runs as one row of its real tokens, each sequence attending to itself alone.

A padded batch of B sequences of up to T tokens is packed into one row of S = sum of lengths, with position ids that
begin again at every sequence, and the per-token outputs are put back at their places in (B, T-1). So collators, losses
and metrics never see the difference, whichever trainer calls. `tasks.models.attention` keeps the sequences apart.
Imports torch and transformers: for worker processes.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch

from tasks.models.attention import use_packed
from tasks.models.attention import why_padded as why_padded

PER_TOKEN = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1", "label_mask")
IGNORED = -100


def run_without_padding(model: Any) -> None:
    """Change ``model``, which has TRL's fused LM head, so that fused calls with a padded batch run packed.

    Other calls (with logits, generation) are unchanged. Batches must be padded on the right.
    """
    use_packed(model)
    padded_forward = model.forward

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        mask_BT = kwargs.get("attention_mask")
        if not kwargs.get("fused_lm_head") or mask_BT is None or args or kwargs.get("labels") is None:
            return padded_forward(*args, **kwargs)
        return _packed_call(padded_forward, kwargs)

    model.forward = types.MethodType(forward, model)


def _packed_call(forward: Callable[..., Any], kwargs: dict[str, Any]) -> Any:
    """The fused forward on the packed batch, its per-token outputs as of the padded one."""
    mask_BT, input_BT, labels_BT = kwargs.pop("attention_mask"), kwargs.pop("input_ids"), kwargs.pop("labels")
    lengths_B = mask_BT.sum(1)
    # Shifted before packing: a sequence's last token predicts nothing, least of all its neighbour's first.
    shifted_BT = torch.full_like(labels_BT, IGNORED)
    shifted_BT[:, :-1] = labels_BT[:, 1:]
    places_S = mask_BT.flatten().nonzero()[:, 0]
    ends_B = lengths_B.cumsum(0)
    starts = torch.nn.functional.pad(ends_B, (1, 0)).to(torch.int32)
    longest = int(lengths_B.max())
    position_S = torch.arange(mask_BT.shape[1], device=mask_BT.device).expand_as(mask_BT).flatten()[places_S]
    outputs = forward(
        **kwargs,
        input_ids=input_BT.flatten()[places_S][None],
        position_ids=position_S[None],
        shift_labels=shifted_BT.flatten()[places_S][None],
        cu_seq_lens_q=starts,
        cu_seq_lens_k=starts,
        max_length_q=longest,
        max_length_k=longest,
    )
    for name in PER_TOKEN:
        value_S = getattr(outputs, name)
        if value_S is not None:
            padded = value_S.new_zeros(mask_BT.numel()).index_put((places_S,), value_S[0])
            setattr(outputs, name, padded.view(mask_BT.shape)[:, :-1])
    return outputs
