"""Random little Qwen3s: of one shape, but for what a test names."""

from __future__ import annotations

from typing import Any


def small_model(seed: int = 0, **changes: Any) -> Any:
    """Two layers of width 32 over 50 tokens, four heads on two, logits that are not flat; ``changes`` to its config."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    shape = {
        "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 8, "intermediate_size": 64, "initializer_range": 0.15,
    }  # fmt: skip
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(Qwen3Config(**{**shape, **changes}))
