"""What chance gives each metric of `PAIR_METRICS`: the same updates with random singular subspaces (Haar)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from tasks.geometry.chance.kept import kept
from tasks.geometry.chance.nulls import (
    expected_overlap,
    expected_similarity,
    extreme_angles,
    inner_draws,
    overlap_draws,
    percentile_columns,
)
from tasks.geometry.cosine import cosine_of, fraction_of
from tasks.geometry.delta import Array
from tasks.geometry.updates.metrics import PAIR_METRICS, Key
from tasks.geometry.updates.modules import Index, InnerPairs, ModulePairs

DRAWS = 1000
"""Of random subspaces: a percentile is known to about .1 %."""

KEPT_FROM = 16
"""Width of subspaces from which their draws take long enough to be kept (`tasks.geometry.chance.kept`)."""

_CHUNK = 50
"""Draws of inner products made at once: they stay in the processor's cache."""

TIES = {"angle": 1e-5, "least": 1e-5, "first": 1e-9, "phi": 1e-9}
"""Values so close (angles: degrees) are equal but for rounding: of subspaces that must meet, or that are the whole
space, whose angle is always 0 and whose phi 1."""

SEED = 0
"""Of those draws and of the bootstrap: equal adapters give equal tables."""


@dataclass(frozen=True, eq=False)
class ModuleChance:
    """What chance gives the P pairs of one module."""

    mean: dict[Key, float]
    """(metric, k) -> mean of the null; exact but for the angles, whose mean is that of the draws. Of an orthogonal
    fraction it is the root of the mean square, above the mean by at most about 1 / (out in)^2."""
    percentile: dict[Key, Array]
    """(metric, k) -> (P,) percent of draws at or below the value, for metrics without a pool."""
    pools: dict[Key, Array]
    """(metric, k) -> (D,) sorted draws, for metrics whose null depends on the shape alone: one array for all modules of
    a shape."""
    inner: Array
    """(D, P) draws of the inner product; independent of other modules' draws."""


class Chance:
    """Draws of random subspaces, made once for every dimension and shared by all modules of it; threads may share it.

    The singular values stay, the singular vectors of one update of every pair are replaced. So the null knows the
    spectra and the shapes, and nothing of a shared initialisation, which correlates the right subspaces of all
    adapters: see the metric lora_a_cosine, and of a cosine the second null, given the right vectors, in `nulls`.
    """

    def __init__(self, draws: int = DRAWS, seed: int = SEED) -> None:
        self.draws, self.seed = draws, seed

    def module(self, place: int, pairs: ModulePairs, singular: Array, values: Mapping[Key, Array]) -> ModuleChance:
        """The null of one module's ``values``.

        ``place``: the module's number, which decides its draws. ``singular`` (M, r): every update's singular values,
        padded with zeros; where not all were computed, scaled up to the update's norm.
        """
        first, second = pairs.left.first, pairs.left.second
        out, n_in, width = pairs.left.dimension, pairs.right.dimension, singular.shape[1]
        inner = self._inner(place, out, n_in, width, singular)[:, first, second]
        chance = ModuleChance({}, {}, {}, inner)
        left_out = 1 - 1 / (out * n_in)  # E[1 - cos^2]
        for (name, k), found in values.items():
            match PAIR_METRICS[name].null:
                case None:
                    continue
                case "inner":
                    chance.mean[name, k] = 0.0
                    drawn = cosine_of(inner, pairs.squared_a, pairs.squared_b)
                    chance.percentile[name, k] = percentile_columns(found, drawn)
                case "residual_a" | "residual_b":
                    chance.mean[name, k] = float(np.sqrt(left_out))
                    cosine = cosine_of(inner, pairs.squared_a, pairs.squared_b)
                    chance.percentile[name, k] = percentile_columns(found, np.sqrt(1 - cosine**2))
                case null:
                    kind, side = null.split("_")
                    dimension = out if side == "left" else n_in
                    pool, mean = _pool(self.seed, self.draws, kind, dimension, width, k or 1)
                    chance.mean[name, k], chance.pools[name, k] = mean, pool
        return chance

    def _inner(self, place: int, out: int, n_in: int, width: int, singular: Array) -> Array:
        """(D, M, M) inner products; the draws of one dimension are shuffled anew for every module and side."""
        rng = np.random.default_rng((self.seed, 1, place))
        left, right = (_overlaps(self.seed, self.draws, n, width) for n in (out, n_in))
        beside = rng.permutation(self.draws)
        drawn = np.empty((self.draws, len(singular), len(singular)))
        products = np.empty((_CHUNK, width, width))
        for start in range(0, self.draws, _CHUNK):
            some = slice(start, min(start + _CHUNK, self.draws))
            part = products[: some.stop - start]
            np.take(right, beside[some], axis=0, out=part, mode="clip")  # "raise" would make another copy
            part *= left[some]
            drawn[some] = inner_draws(part, singular)
        return drawn[rng.permutation(self.draws)]


@lru_cache(maxsize=16)
def _overlaps(seed: int, draws: int, dimension: int, width: int) -> Array:
    """(draws, width, width) overlaps of random frames; kept, since all modules and pairs of a dimension share them."""

    def make() -> Array:
        return overlap_draws(dimension, width, width, draws, np.random.default_rng((seed, 0, dimension, width)))

    if width < KEPT_FROM:
        return make()
    return kept(f"overlaps-{dimension}-{width}-{draws}-{seed}", (draws, width, width), make)


@lru_cache(maxsize=256)
def _pool(seed: int, draws: int, kind: str, dimension: int, width: int, k: int) -> tuple[Array, float]:
    """(draws,) sorted values of random frames, and their mean: the exact one where it is known."""

    def make() -> Array:
        overlaps = _overlaps(seed, draws, dimension, width)
        if kind in ("angle", "least"):
            return extreme_angles(overlaps, k, "largest" if kind == "angle" else "smallest")
        if kind == "phi":
            return np.sort(np.sum(overlaps[:, :k, :k] ** 2, axis=(1, 2)) / k)
        return np.sort(np.abs(overlaps[:, 0, 0]))

    pool = make() if width < KEPT_FROM else kept(f"{kind}-{k}-{dimension}-{width}-{draws}-{seed}", (draws,), make)
    if kind == "phi":
        return pool, expected_similarity(dimension, k)
    return pool, expected_overlap(dimension) if kind == "first" else float(pool.mean())


@dataclass(eq=False)
class TotalChance:
    """Sums over modules of what chance gives all pairs: the null of the values over everything."""

    pairs: int
    draws: int = DRAWS
    inner: Array = field(init=False)
    """(D, P)"""
    residual_a: Array = field(init=False)
    residual_b: Array = field(init=False)

    def __post_init__(self) -> None:
        self.inner, self.residual_a, self.residual_b = (np.zeros((self.draws, self.pairs)) for _ in range(3))

    def add(self, places: Index, pairs: InnerPairs, chance: ModuleChance) -> None:
        """Add one module, whose pairs have the numbers ``places`` among all."""
        self.inner[:, places] += chance.inner
        square = chance.inner**2
        for residual, own, other in (
            (self.residual_a, pairs.squared_a, pairs.squared_b),
            (self.residual_b, pairs.squared_b, pairs.squared_a),
        ):
            residual[:, places] += own - np.divide(square, other, out=np.zeros_like(square), where=other > 0)

    def percentile(self, null: str, values: Array, squared_a: Array, squared_b: Array) -> Array:
        """(P,) of the values over everything; squared norms are those over the pairs' shared modules."""
        if null == "inner":
            return percentile_columns(values, cosine_of(self.inner, squared_a, squared_b))
        own = squared_a if null == "residual_a" else squared_b
        return percentile_columns(values, fraction_of(getattr(self, null), own))
