"""How much of a batch fits: bytes that the backward pass needs for a token, measured on the model that will train.

Nothing is looked up in a table of models: one small forward pass is run and what it saves is counted. The answer is
only a start, because an out-of-memory error halves it (`tasks.training.micro`). Imports torch: for worker processes.
"""

from __future__ import annotations

from typing import Any

import torch

SPARE = 0.80
"""Share of the free memory that is planned with; the rest is for fragments, optimiser state and the loss's tiles."""
TILES = 3 * 2**30
"""Bytes that the fused LM head's tiles take at most (4,096 x 32,768 logits in float32, and their gradient)."""
MOST_TOKENS = 32_768
"""Tokens of a pass beyond which a GPU computes no faster."""
CPU_TOKENS = 1024
"""The same of a CPU: at 2,048 what a pass holds has left its caches."""
PROBE = (32, 160)
"""Tokens of the two probing passes; what they differ by is per token, what they share is per pass."""


def saved_bytes_per_token(model: Any, *, autocast: bool) -> float:
    """Bytes that ``model``'s backbone keeps for the backward pass, a token, without gradient checkpointing."""
    few, many = (_saved_bytes(model, tokens, autocast=autocast) for tokens in PROBE)
    return (many - few) / (PROBE[1] - PROBE[0])


def _saved_bytes(model: Any, tokens: int, *, autocast: bool) -> int:
    device = next(model.parameters()).device
    kept: dict[int, int] = {}
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    alive = []  # a storage that is freed could give its address to the next one

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    ids = torch.zeros((1, tokens), dtype=torch.long, device=device)
    with (
        torch.autocast(device.type, torch.bfloat16, enabled=autocast),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        model.get_base_model().base_model(input_ids=ids, use_cache=False)
    return sum(kept.values())


def plan(
    longest: int,
    free: float,
    per_token: float,
    checkpointed_per_token: float,
    setting: str,
    *,
    tiles: float = TILES,
    most: int = MOST_TOKENS,
) -> tuple[bool, int]:
    """Whether to checkpoint, and the most tokens of a pass.

    Args:
        longest: tokens of the longest example, which has to fit.
        free: bytes that are free with the model loaded.
        per_token: bytes kept a token without checkpointing, and ``checkpointed_per_token`` with it.
        setting: train.gradient_checkpointing; ``auto`` turns it on where the longest example, or a quarter of
            ``most``, does not fit without.
        tiles: bytes that the LM head takes at most, beside the activations.
        most: tokens of a pass beyond which the device computes no faster.
    """
    usable = max(0.0, SPARE * free - tiles)
    without = int(usable / per_token)
    checkpointing = setting == "on" or (setting == "auto" and without < max(longest, most // 4))
    room = int(usable / checkpointed_per_token) if checkpointing else without
    return checkpointing, max(longest, min(room, most))


def checkpointed_bytes_per_token(model: Any, per_token: float, *, autocast: bool) -> float:
    """With every layer checkpointed: each layer's input, and one layer's share of ``per_token`` while it is redone."""
    config = model.get_base_model().config.get_text_config()
    weights = next(model.parameters()).element_size()
    width = 2 if autocast and weights == 2 else 4
    return float(config.num_hidden_layers * config.hidden_size * width + per_token / config.num_hidden_layers)
