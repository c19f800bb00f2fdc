"""Random factored updates, and their dense definition to hold the formulas against."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tasks.geometry.delta import Factors, LoraDelta

Shape = tuple[int, int, int, int]

SHAPES: list[Shape] = [
    # out, in, rank of a, rank of b
    (12, 9, 4, 4),
    (9, 12, 4, 2),  # different ranks
    (16, 16, 1, 1),
    (5, 7, 8, 8),  # r > out
    (7, 5, 6, 3),  # r > in
    (128, 64, 8, 8),
    (256, 128, 32, 16),
]


def random_factors(rng: np.random.Generator, out: int, n_in: int, r: int) -> Factors:
    return Factors(rng.standard_normal((out, r)), rng.standard_normal((r, n_in)), float(rng.uniform(0.1, 3)))


def random_delta(rng: np.random.Generator, out: int, n_in: int, r: int, modules: int = 3) -> LoraDelta:
    names = [f"model.layers.{i}.self_attn.q_proj" for i in range(modules)]
    return LoraDelta({name: random_factors(rng, out, n_in, r) for name in names})


def dense(factors: Factors) -> np.ndarray:
    """The definition: (out, in) ``scale * B A``."""
    return factors.scale * factors.B @ factors.A


def mapped(delta: LoraDelta, change: Callable[[Factors], Factors]) -> LoraDelta:
    return LoraDelta({name: change(factors) for name, factors in delta.modules.items()})


def deltas(shape: Shape, seed: int = 7) -> tuple[LoraDelta, LoraDelta]:
    """Two adapters of one shape, three modules each."""
    out, n_in, r_a, r_b = shape
    rng = np.random.default_rng(seed)
    return random_delta(rng, out, n_in, r_a), random_delta(rng, out, n_in, r_b)


def zero(delta: LoraDelta) -> LoraDelta:
    """The same adapter before its first step: B = 0."""
    return mapped(delta, lambda f: f._replace(B=np.zeros_like(f.B)))


def flat(delta: LoraDelta) -> np.ndarray:
    """All dense updates as one vector."""
    return np.concatenate([dense(factors).ravel() for factors in delta.modules.values()])


def rotation(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.linalg.qr(rng.standard_normal((n, n)))[0]
