"""Memory of one device: weights, LoRA and its optimiser, activations, KV cache. Logits are never formed whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.geometry.activations.moments import MOST_WIDTH, RANK
from tasks.planning.shapes import Shape

SPARE = 0.80
"""Share of what is free beside the weights that training plans with (`tasks.training.memory.SPARE`)."""
TILES = 3 * 2**30
"""Most that the fused LM head's tiles of logits take (`tasks.training.memory.TILES`)."""
MOST_TOKENS = 32_768
"""Tokens of a pass beyond which training does not go (`tasks.training.memory.MOST_TOKENS`)."""
CPU_TOKENS = 1024
"""The same of a CPU in bfloat16 (`tasks.training.memory.CPU_TOKENS`)."""
CPU_TILE = 2 * 256 + 12 * 16
"""Bytes of logits an entry of the vocabulary, of a CPU in bfloat16 (`tasks.models.head.tile_bytes`)."""
CPU_WORKER = 0.9e9
"""A training process on a CPU without its model: libraries, and what the allocator keeps of what was freed. With it the
plans of Qwen2.5-0.5B (SFT, DPO) and SmolLM2-135M are .88, .88 and .90 of the most that was measured."""
WORKER = 2**29
"""A worker process without its model: libraries, buffers; and on a GPU its context."""


def lora_bytes(parameters: int) -> int:
    """float32 weights, gradients and AdamW's two moments: 16 bytes a parameter."""
    return 16 * parameters


def activation_bytes(shape: Shape, r: int, *, bfloat16: bool) -> float:
    """Bytes that the backward pass needs of one token, all layers, LoRA on q, k, v and o, nothing checkpointed.

    Exact for a Qwen3 under transformers 5.23, peft 0.21 and sdpa: it was fitted to what autograd saves in 14 random
    shapes (`tasks.training.memory.saved_bytes_per_token`) and gives each of them to the byte. Frozen matrices need no
    inputs saved but for LoRA's; norms save their float32 copies. Other architectures differ by a few terms.
    """
    if bfloat16:
        widths = 10 * shape.hidden + 8 * (shape.queries + shape.keys) + 6 * shape.intermediate + 8 * r
    else:
        widths = 12 * (shape.hidden + shape.queries + shape.keys + shape.intermediate) + 16 * r
    return float(shape.layers * (widths + 8 * shape.heads + 4 * shape.kv_heads + 8))


def checkpointed_bytes(shape: Shape, r: int, *, bfloat16: bool) -> float:
    """The same with every layer checkpointed: each layer's input, and one layer while it is computed again."""
    width = 2 if bfloat16 else 4
    return shape.layers * shape.hidden * width + activation_bytes(shape, r, bfloat16=bfloat16) / shape.layers


@dataclass(frozen=True)
class Training:
    """What training one adapter takes of a device, in bytes, and how it would be run there."""

    weights: int
    adapter: int
    activations: float
    """Of the largest pass."""
    tiles: int
    pass_tokens: int
    checkpointing: bool
    least: float
    """Without which not even the longest example fits, checkpointed."""
    worker: float
    """The process without its model."""

    @property
    def total(self) -> float:
        """All of it at once."""
        return self.weights + self.adapter + self.activations + self.tiles


def training(
    shape: Shape,
    r: int,
    lora: int,
    device: float,
    longest: int,
    batch_tokens: float,
    *,
    bfloat16: bool,
    setting: str,
    on_cpu: bool = False,
    teacher: bool = False,
) -> Training:
    """How training runs on a device of ``device`` bytes, by the rule of `tasks.training.memory.plan`.

    Args:
        longest: tokens of the longest example.
        batch_tokens: tokens of an optimiser step; no pass is larger.
        setting: train.gradient_checkpointing.
        on_cpu: whether the device is a CPU, which in float32 takes a batch in one pass, padded, until memory runs out.
        teacher: whether a teacher's weights are held as well; its shape is taken to be the base's.
    """
    weights = shape.parameters * (2 if bfloat16 else 4) * (2 if teacher else 1)
    adapter = lora_bytes(lora)
    light = on_cpu and bfloat16
    most = CPU_TOKENS if light else MOST_TOKENS
    tiles = CPU_TILE * shape.vocabulary if light else min(TILES, int(8 * batch_tokens * shape.vocabulary))
    worker = CPU_WORKER if light else WORKER
    usable = max(0.0, SPARE * (device - worker - weights - adapter) - tiles)
    plain = activation_bytes(shape, r, bfloat16=bfloat16)
    redone = checkpointed_bytes(shape, r, bfloat16=bfloat16)
    room = int(usable / plain)
    enough = min(most // 4, batch_tokens)
    checkpointing = setting == "on" or (setting == "auto" and room < max(longest, enough))
    each = redone if checkpointing else plain
    tokens = int(max(longest, min(usable / each, most, batch_tokens)))
    possible = plain if setting == "off" else redone
    least = worker + weights + adapter + (tiles + longest * possible) / SPARE
    return Training(weights, adapter, tokens * each, tiles, tokens, checkpointing, least, worker)


def moment_bytes(shape: Shape, targets: Sequence[str]) -> int:
    """The second moments of the inputs of ``targets`` in all layers, float32: on the device, and as a file."""
    widths = shape.input_widths(targets)
    return 4 * shape.layers * sum(width * width if width <= MOST_WIDTH else width * (RANK + 1) for width in widths)


def moments(shape: Shape, targets: Sequence[str], *, bfloat16: bool) -> int:
    """The pass that takes them: a worker, the weights (float32 on a GPU), and what is summed."""
    weights, _ = answering(shape, 0, 0, bfloat16=bfloat16)
    return WORKER + weights + moment_bytes(shape, targets)


def answering(shape: Shape, batch: float, length: float, *, bfloat16: bool) -> tuple[int, float]:
    """(weights, KV cache) of ``batch`` answers decoded at once, each ``length`` tokens with its prompt."""
    width = 2 if bfloat16 else 4
    return shape.parameters * width, batch * length * shape.cache_bytes(width)
