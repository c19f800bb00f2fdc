"""Attention of sequences that lie one behind the other in a row, and of the newest tokens of many answers.

Both are exact: no token sees another sequence's, no padding is computed, and no key or value is copied for the query
heads that share it. Where a sequence ends is told by ``cu_seq_lens_q``, as for transformers' flash attention.

- On a GPU in bfloat16: PyTorch's variable-length flash attention, one kernel for all sequences.
- Elsewhere: PyTorch's ``scaled_dot_product_attention`` with its causal flag, sequence by sequence.

transformers' own way on ``sdpa`` and ``eager`` (position ids that begin again) is exact as well, but builds an (S, S)
mask. Imports torch and transformers: for worker processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PACKED = "colinear_packed"
"""Our attention's name among those of transformers."""


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


def use_packed(model: Any) -> None:
    """From now on ``model`` has `packed_attention`; calls with an attention mask run as on ``sdpa``."""
    AttentionInterface.register(PACKED, packed_attention)
    AttentionMaskInterface.register(PACKED, _mask)
    model.set_attn_implementation(PACKED)


@contextmanager
def packed(model: Any) -> Iterator[None]:
    """`use_packed` within it."""
    before = model.config._attn_implementation
    use_packed(model)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


class Kept:
    """Keys and values of up to ``rows`` sequences of up to ``length`` tokens, each in a place of its own.

    The sequences under way are always the first: one that ends gives its place to the last of them.
    """

    def __init__(self, rows: int, length: int) -> None:
        self.rows, self.length = rows, length
        self.tokens = torch.zeros(rows, dtype=torch.long)
        """How many each sequence has here."""
        self.places: list[int] = []
        """Where the sequences of a packed pass go; empty in a pass over the newest token of each sequence."""
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._mask: torch.Tensor | None = None

    def newest(self, rows: int, dtype: torch.dtype) -> None:
        """What comes is one more token of each of the first ``rows`` sequences."""
        self.places = []
        longest = int(self.tokens[:rows].max()) + 1
        beyond = torch.arange(longest) > self.tokens[:rows, None]
        self._mask = torch.zeros(rows, 1, 1, longest, dtype=dtype).masked_fill_(beyond[:, None, None], float("-inf"))

    def move(self, source: int, target: int) -> None:
        """The sequence at one place goes to another."""
        count = int(self.tokens[source])
        for kept in self._layers.values():
            for one in kept:
                one[target, :, :count] = one[source, :, :count]
        self.tokens[target] = count

    def put(self, layer: int, key: torch.Tensor, value: torch.Tensor, bounds: list[int]) -> None:
        """(1, kv_heads, S, d) of the sequences of a packed pass."""
        for one, new in zip(self._of(layer, key), (key, value), strict=True):
            for place, (begin, end) in zip(self.places, pairwise(bounds), strict=True):
                one[place, :, : end - begin] = new[0, :, begin:end]

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None
    ) -> torch.Tensor:
        """(B, heads, 1, d) queries, keys and values of the newest tokens -> (B, 1, heads, d)."""
        assert self._mask is not None
        keys, values = self._of(layer, key)
        rows, heads, _, width = query.shape
        at = torch.arange(rows)
        for one, new in ((keys, key), (values, value)):
            one[at, :, self.tokens[:rows]] = new[:, :, 0]
        longest = self._mask.shape[-1]
        found = torch.nn.functional.scaled_dot_product_attention(
            query.reshape(rows, keys.shape[1], -1, width),  # the query heads that share keys, as tokens of one head
            keys[:rows, :, :longest], values[:rows, :, :longest], attn_mask=self._mask, scale=scaling,
        )  # fmt: skip
        return found.reshape(rows, 1, heads, width)

    def _of(self, layer: int, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if layer not in self._layers:
            shape = (self.rows, key.shape[1], self.length, key.shape[3])
            # Memory is taken as it is written to; what is masked out must not be NaN.
            self._layers[layer] = (key.new_zeros(shape), key.new_zeros(shape))
        return self._layers[layer]


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

    With ``kept`` (`Kept`) among ``kwargs`` keys and values are added to it; without ``cu_seq_lens_q`` what comes is
    then one token a sequence, (B, heads, 1, d), which attends to all that is kept of its own. Without either it is
    transformers' ``sdpa``.
    """
    starts, kept = kwargs.get("cu_seq_lens_q"), kwargs.pop("kept", None)
    if starts is None and kept is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    if torch.is_autocast_enabled(query.device.type):  # as autocast does for the functions that it knows
        query, key, value = (x.to(torch.get_autocast_dtype(query.device.type)) for x in (query, key, value))
    if starts is None:
        return kept.attend(module.layer_idx, query, key, value, scaling), None
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
    if kept is not None:
        kept.put(module.layer_idx, key, value, bounds)
    pieces = [
        sdpa_attention_forward(
            module, *(x[:, :, begin:end] for x in (query, key, value)), None, dropout, scaling, is_causal=True
        )[0]
        for begin, end in pairwise(bounds)
    ]
    return torch.cat(pieces, dim=1), None


def row_of(sequences: list[list[int]], device: Any = "cpu", **kwargs: Any) -> dict[str, Any]:
    """Arguments of a model's pass over ``sequences`` (token ids), one behind the other in a row of S tokens."""
    lengths = torch.tensor([len(one) for one in sequences])
    starts = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(device, torch.int32)
    longest = int(lengths.max())
    return {
        "input_ids": torch.tensor([token for one in sequences for token in one], device=device)[None],
        "position_ids": torch.cat([torch.arange(len(one)) for one in sequences])[None].to(device),
        "cu_seq_lens_q": starts,
        "cu_seq_lens_k": starts,
        "max_length_q": longest,
        "max_length_k": longest,
        "use_cache": False,
        **kwargs,
    }


def _mask(*args: Any, attention_mask: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor | None:
    """No mask where there is no padding (a packed row, or plain causal attention), else that of ``sdpa``."""
    if attention_mask is None:
        return None
    return sdpa_mask(*args, attention_mask=attention_mask, **kwargs)
