"""How fast devices are at a study's kinds of work, as shares of their peak. Measured on a CPU, assumed on a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from tasks.planning import flops
from tasks.planning.machine import Machine
from tasks.planning.memory import SPARE
from tasks.planning.shapes import Shape


@dataclass(frozen=True)
class Rates:
    """Shares of a device's peak (of its bandwidth for ``read``), and what work costs whatever its size."""

    train: float
    forward: float
    decode: float
    read: float
    start: float
    """Seconds until a worker has its model and data."""
    step: float
    """Seconds of an optimiser step beside its arithmetic."""
    token: float
    """Seconds of a decoding step and layer beside its arithmetic."""


CPU = Rates(train=0.60, forward=0.60, decode=0.20, read=1.0, start=4.5, step=0.02, token=0.8e-3)
"""Fitted to one default study on two cores (docs/real-model.md); a smoke study was then held against it."""
LIGHT = Rates(train=0.65, forward=0.65, decode=0.65, read=1.0, start=8.0, step=0.1, token=0.8e-3)
"""Of a CPU in bfloat16: Qwen2.5-0.5B and SmolLM2-135M on one core each (tests/benchmarks/real_model.py)."""
GPU = Rates(train=0.40, forward=0.45, decode=0.30, read=0.5, start=90.0, step=0.05, token=0.3e-3)
"""Assumed, not measured: what well-fed bfloat16 training and paged decoding usually reach."""


FLOAT32 = 0.07
"""Of a GPU's bfloat16 peak where the arithmetic is float32, as along the paths (an H100: 67 of 989 TFLOP/s)."""


def rates(machine: Machine) -> Rates:
    """Those of its kind."""
    return GPU if machine.kind == "gpu" else LIGHT if machine.light else CPU


def exact_share(machine: Machine) -> float:
    """What float32 arithmetic reaches of the machine's peak."""
    if machine.kind == "gpu":
        return FLOAT32
    return machine.exact / machine.peak if machine.light and machine.exact and machine.peak else 1.0


def training_seconds(machine: Machine, operations: float, steps: int) -> float:
    """One adapter on one device."""
    rate = rates(machine)
    return rate.start + steps * rate.step + operations / (rate.train * machine.peak)


def scoring_seconds(machine: Machine, operations: float, *, exact: bool = False) -> float:
    """Forward passes on one device, its worker running already; ``exact``: in float32 wherever it is."""
    slower = exact_share(machine) if exact else 1.0
    return operations / (rates(machine).forward * machine.peak * slower)


def decoding_seconds(
    machine: Machine, shape: Shape, answers: float, prompt: float, new: float, batch: int, *, longest: int | None
) -> float:
    """``answers`` decoded on one device, ``batch`` at a time.

    A step reads all weights and the batch's KV cache, so it takes the longer of its arithmetic and that. ``longest``:
    the steps until the last of a batch has ended; None where answers that end make room for others at once, and a batch
    is what the memory holds (vLLM, and a CPU in bfloat16 whatever ``longest``).
    """
    if answers <= 0:
        return 0.0
    rate, width = rates(machine), 2 if machine.kind == "gpu" or machine.light else 4
    if machine.light:
        longest = None
    fits = (SPARE * machine.memory - width * shape.parameters) / ((prompt + new) * shape.cache_bytes(width))
    batch = max(1, min(batch, ceil(answers), int(fits) if longest is None else batch))
    steps = ceil(answers / batch) * longest if longest else answers * new / batch
    each = flops.forward(shape, 1, prompt + new / 2, 1)
    bytes_read = width * shape.parameters + batch * (prompt + new / 2) * shape.cache_bytes(width)
    arithmetic, reading = batch * each / (rate.decode * machine.peak), bytes_read / (rate.read * machine.bandwidth)
    prefill = answers * flops.forward(shape, prompt, flops.causal(prompt), 0) / (rate.forward * machine.peak)
    return prefill + steps * (max(arithmetic, reading) + shape.layers * rate.token)
