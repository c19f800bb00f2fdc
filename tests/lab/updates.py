"""Random updates, and their dense definition to hold the formulas against."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tasks.core.results import RunInfo
from tasks.geometry.delta import Dense, Factors, LoraDelta, Rescaled, Update, checked_factors

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


class Memory:
    """A `Source` of any updates as they are, dense ones and damaged ones too."""

    def __init__(self, modules: Mapping[str, Update], source: str = "memory") -> None:
        self.modules, self.source = dict(modules), source

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        return {name: update.shape for name, update in self.modules.items()}

    @property
    def rank(self) -> int | None:
        return min((width(u) for u in self.modules.values() if isinstance(u, Factors)), default=None)

    def read(self, module: str) -> Update:
        return self.modules[module]


class Checked(Memory):
    """Refuses what is not finite, as adapters on disk do."""

    def read(self, module: str) -> Update:
        factors = self.modules[module]
        assert isinstance(factors, Factors)
        return checked_factors(factors, f"{self.source}: module {module}")


def infos(number: int) -> list[RunInfo]:
    return [RunInfo(f"run{i}", "sft", i, i, 1e-3) for i in range(number)]


def width(update: Update) -> int:
    """Singular directions that it can have."""
    return min(update.B.shape[1], *update.shape) if isinstance(update, Factors) else min(update.shape)


def random_factors(rng: np.random.Generator, out: int, n_in: int, r: int) -> Factors:
    return Factors(rng.standard_normal((out, r)), rng.standard_normal((r, n_in)), float(rng.uniform(0.1, 3)))


def random_delta(rng: np.random.Generator, out: int, n_in: int, r: int, modules: int = 3) -> LoraDelta:
    names = [f"model.layers.{i}.self_attn.q_proj" for i in range(modules)]
    return LoraDelta({name: random_factors(rng, out, n_in, r) for name in names})


def grid(layers: int, projections: Sequence[str] = ("q_proj", "k_proj")) -> dict[str, tuple[int, str]]:
    """Module name -> its layer and projection."""
    return {f"model.layers.{n}.self_attn.{name}": (n, name) for n in range(layers) for name in projections}


def dense(update: Update) -> np.ndarray:
    """The definition: (out, in) ``scale * B A``, with DoRA's rows ``diag(d) W + B A``."""
    if isinstance(update, Rescaled):
        return update.d[:, None] * update.base.W + update.B @ update.A
    return update.W if isinstance(update, Dense) else update.scale * update.B @ update.A


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


def frame_of(rng: np.random.Generator, n: int, k: int) -> np.ndarray:
    """(n, k) a Haar frame up to signs."""
    return np.linalg.qr(rng.standard_normal((n, k)))[0]
