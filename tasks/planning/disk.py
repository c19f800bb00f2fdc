"""Disk that a study needs, in bytes."""

from __future__ import annotations

from tasks.planning.shapes import Shape

TOKEN_BYTES = 8.0
"""A token of a rollout in one parquet file: text, id, log-probability, compressed. 2.5 in the default study, whose
vocabulary and texts are small; 8 are planned with."""
PAIR_BYTES = 4_000.0
"""A module of a pair of runs: its row a metric and k."""
KEPT_CHECKPOINTS = 2


def adapter_bytes(lora: int) -> int:
    """PEFT writes float32."""
    return 4 * lora


def checkpoint_bytes(lora: int) -> int:
    """One: the adapter, and AdamW's two moments."""
    return 12 * lora


def rollout_bytes(rows: float, tokens: float) -> float:
    """``rows`` of ``tokens`` each, prompt included: as the teacher gave them, as the base sees them, and graded."""
    return 3 * TOKEN_BYTES * rows * tokens


def base_bytes(shape: Shape) -> int:
    """A download: bfloat16 weights."""
    return 2 * shape.parameters
