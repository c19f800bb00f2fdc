"""Floating-point operations of forward and backward passes, decoding and pretraining.

The usual count (Kaplan et al. 2020, 2001.08361, section 2.1): a matrix of N entries costs 2 N a token forward, 2 N more
for the gradient of its inputs and 2 N more for its own. A frozen matrix needs no gradient of its own, so under LoRA the
base costs 4 N where full training costs 6 N; only LoRA's own entries cost 6. Norms, rotary embeddings, softmax and the
optimiser are left out (under 1 % at width 2,560), and so is that the first layer's inputs need no gradient.
"""

from __future__ import annotations

from tasks.planning.shapes import Shape


def causal(length: float) -> float:
    """Keys that a token of a sequence of ``length`` attends to, on average."""
    return (length + 1) / 2


def attention(shape: Shape, keys: float) -> float:
    """Scores and weighted values of one token that attends to ``keys`` keys, all layers."""
    return 4.0 * shape.layers * shape.queries * keys


def forward(shape: Shape, tokens: float, keys: float, scored: float, lora: int = 0) -> float:
    """``tokens`` through the layers, each attending to ``keys`` keys; ``scored`` of them through the output head."""
    return tokens * (2.0 * (shape.linear + lora) + attention(shape, keys)) + 2.0 * shape.head * scored


def train(shape: Shape, lora: int, tokens: float, keys: float, scored: float, *, checkpointing: bool = False) -> float:
    """Forward and backward of ``tokens`` under LoRA (on q, k, v, o where it is checkpointed).

    Checkpointing runs each layer forward once more, but for its last matrix, whose output no gradient needs.
    """
    frozen = tokens * 4.0 * shape.linear + 4.0 * shape.head * scored
    cost = frozen + tokens * (6.0 * lora + 3.0 * attention(shape, keys))
    if checkpointing:
        again = shape.linear - shape.layers * shape.hidden * shape.intermediate
        cost += tokens * (2.0 * (again + lora) + attention(shape, keys))
    return cost


def pretrain(shape: Shape, tokens: float, keys: float, scored: float) -> float:
    """Forward and backward of ``tokens`` with every weight trained: three times the forward pass."""
    return 3.0 * forward(shape, tokens, keys, scored)


def decode(shape: Shape, prompt: float, new: float) -> float:
    """One answer of ``new`` tokens after ``prompt`` tokens, with a KV cache: every token passes the layers once."""
    length = prompt + new
    return forward(shape, length, causal(length), new)
