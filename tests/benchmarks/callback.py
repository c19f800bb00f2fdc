"""Times a row of `tasks.geometry.GeometryCallback` at Qwen3-4B's shapes against the arithmetic of a training step.

    python -m tests.benchmarks.callback [--layers 36] [--tokens 65536] [--tflops 400]

The factors are those of `tests.benchmarks.geometry` (hidden 2560; q, k, v, o; rank 32). A row is what the callback
computes for a checkpoint: float64 copies, their decomposition and inner products with the row before. CPU seconds, so
that other work on the machine does not count; the least of three. A step has 4 N FLOPs a token (LoRA: forward, and the
backward pass of activations) with N = 4.0e9; ``--tflops`` is what the training reaches.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from tasks.core.cores import threads
from tasks.geometry.delta import Factors
from tasks.geometry.trajectory import own_sums
from tasks.geometry.updates.modules import Decomposed
from tests.benchmarks.geometry import RANK, SHAPES

PARAMETERS = 4.0e9


def factors(layers: int, seed: int) -> list[Factors]:
    """One adapter's float32 factors, as they are while it trains."""
    rng = np.random.default_rng(seed)

    def one(out: int, n_in: int) -> Factors:
        a, b = rng.standard_normal((RANK, n_in), np.float32), rng.standard_normal((out, RANK), np.float32)
        return Factors(1e-3 * b, a / n_in**0.5, 2.0)

    return [one(*shape) for _ in range(layers) for shape in SHAPES.values()]


def row(live: list[Factors], before: list[Decomposed]) -> list[Decomposed]:
    """What the callback does at a checkpoint, but for writing a line of text."""
    now = [Decomposed(Factors(one.B.astype(np.float64), one.A.astype(np.float64), one.scale), 1) for one in live]
    sums = [own_sums(one, other) for one, other in zip(now, before, strict=True)]
    assert sum(squared for squared, _, _ in sums) > 0
    return now


def main() -> None:
    """Print seconds of a row, and after how many steps a row costs less than 1 % of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, default=36)
    parser.add_argument("--tokens", type=int, default=65_536, help="of a step")
    parser.add_argument("--tflops", type=float, default=400.0)
    asked = parser.parse_args()
    live, seconds = factors(asked.layers, 0), []
    with threads(1):
        before = [Decomposed(one, 1) for one in factors(asked.layers, 1)]
        for _ in range(3):
            began = time.process_time()
            before = row(live, before)
            seconds.append(time.process_time() - began)
    step = 4 * PARAMETERS * asked.tokens / (asked.tflops * 1e12)
    print(f"a row: {min(seconds):.2f} CPU seconds of one core; a step at {asked.tflops:g} TFLOP/s: {step:.2f} s")
    print(f"a row each {int(np.ceil(min(seconds) / (0.01 * step)))} steps is 1 % of them")


if __name__ == "__main__":
    main()
