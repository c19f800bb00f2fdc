"""Training without padding: a batch runs as one row of its real tokens, each sequence attending to itself alone.

A padded batch of B sequences of up to T tokens is packed into one row of S = sum of lengths, with position ids that
begin again at every sequence, and the per-token outputs are put back at their places in (B, T-1). So collators, losses
and metrics never see the difference, whichever trainer calls. Where a sequence ends is told to the attention
(``cu_seq_lens_q``), which is exact on every device: no mask is approximated, no token sees another sequence's.

- On a GPU in bfloat16: PyTorch's variable-length flash attention, one kernel for all sequences.
- Elsewhere: PyTorch's ``scaled_dot_product_attention`` with its causal flag, sequence by sequence.

transformers' own way on ``sdpa`` and ``eager`` (position ids that begin again) is exact as well, but builds an (S, S)
mask. Imports torch and transformers: for worker processes.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PACKED = "colinear_packed"
"""Our attention's name among those of transformers."""
PER_TOKEN = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1", "label_mask")
IGNORED = -100


def why_padded(model: Any) -> str | None:
    """Why ``model`` (a causal language model) cannot run packed, or None where it can.

    Only full causal attention through transformers' attention interface is known to be exact.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or (getattr(config, "sliding_window", None) and not hasattr(config, "layer_types")):
        return f"{config.model_type} has layers that are not full attention"
    if not getattr(model, "_supports_attention_backend", False) or getattr(config, "attn_logit_softcapping", None):
        return f"{config.model_type} does not take its attention from transformers' interface"
    return None


def run_without_padding(model: Any) -> None:
    """Change ``model``, which has TRL's fused LM head, so that fused calls with a padded batch run packed.

    Other calls (with logits, generation) are unchanged. Batches must be padded on the right.
    """
    AttentionInterface.register(PACKED, packed_attention)
    AttentionMaskInterface.register(PACKED, _mask)
    model.set_attn_implementation(PACKED)
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


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """(1, heads, S, d) queries and (1, kv_heads, S, d) keys and values -> (1, S, heads, d), sequence by sequence.

    Without ``cu_seq_lens_q`` among ``kwargs`` it is transformers' ``sdpa``.
    """
    starts = kwargs.get("cu_seq_lens_q")
    if starts is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    if torch.is_autocast_enabled(query.device.type):  # as autocast does for the functions that it knows
        query, key, value = (x.to(torch.get_autocast_dtype(query.device.type)) for x in (query, key, value))
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and dropout == 0.0:
        from torch.nn.attention.varlen import varlen_attn

        longest = kwargs["max_length_q"]
        query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
        out: Any = varlen_attn(
            query, key, value, starts, starts, longest, longest,
            scale=scaling, window_size=(-1, 0), enable_gqa=query.shape[1] != key.shape[1],
        )  # fmt: skip
        return out[None], None
    bounds = starts.tolist()
    pieces = [
        sdpa_attention_forward(
            module, *(x[:, :, begin:end] for x in (query, key, value)), None, dropout, scaling, is_causal=True
        )[0]
        for begin, end in pairwise(bounds)
    ]
    return torch.cat(pieces, dim=1), None


def _mask(*args: Any, attention_mask: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor | None:
    """No mask where there is no padding (a packed row, or plain causal attention), else that of ``sdpa``."""
    if attention_mask is None:
        return None
    return sdpa_mask(*args, attention_mask=attention_mask, **kwargs)
