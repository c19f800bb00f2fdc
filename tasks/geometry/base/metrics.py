"""`BASE_METRICS`: what an update does to the base weight it is added to, one entry a metric.

Cost: one full SVD a module for the base (shared by all adapters) and one a module for each adapter. In float64 on one
core that is 1.2 s for 1024 x 2560 and 12 s for 4096 x 2560; everything else is small beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.core.errors import InputError
from tasks.geometry.angles import Overlap
from tasks.geometry.base.energy import principal_energy, small_energy
from tasks.geometry.base.intruders import intruder_dimensions
from tasks.geometry.base.rotation import rotation
from tasks.geometry.base.shift import spectrum_shift
from tasks.geometry.base.sparsity import update_sparsity
from tasks.geometry.delta import Array, Update, formed
from tasks.geometry.frames import Row, mean, median

DEFAULT_KS = (1, 5, 10)


@dataclass(frozen=True, eq=False)
class BaseModule:
    """A weight and its thin SVD ``W = U diag(s) V^T``, ``n = min(out, in)`` columns, singular values descending."""

    W: Array
    """(out, in)"""
    U: Array
    """(out, n)"""
    s: Array
    """(n,)"""
    V: Array
    """(in, n)"""

    @property
    def rank(self) -> int:
        """Numerical rank: singular values above ``max(out, in) * eps * s_1``. Directions beyond it are arbitrary."""
        rounding = max(self.W.shape) * np.finfo(np.float64).eps * self.s.max(initial=0.0)
        return int(np.count_nonzero(self.s > rounding))


@dataclass(frozen=True, eq=False)
class Moved:
    """One module before and after an update: what every metric is computed from, each part once."""

    base: BaseModule
    update: Array
    """(out, in) dW"""
    W: Array
    """(out, in) = W0 + dW"""
    s: Array
    """(n,) its singular values"""
    left: Overlap
    """Left singular vectors: all of W0's of non-zero singular value against the leading ones of W0 + dW."""
    right: Overlap
    """Likewise the right ones."""


def base_module(weight: Array) -> BaseModule:
    """Full thin SVD of a base weight (out, in), finite entries; compute once, share between adapters."""
    u, s, vt = _svd(weight)
    return BaseModule(weight, u, s, vt.T)


def moved(base: BaseModule, update: Update, k: int) -> Moved:
    """``base`` with ``update`` added, and its ``k`` leading directions compared with the base's.

    Raises `InputError` where their shapes differ. Where W0 + dW equals W0 in float64 the base's own SVD is taken, so
    that no update means no rotation also where singular values repeat and their vectors are arbitrary.
    """
    if update.shape != base.W.shape:
        raise InputError(f"the update is {update.shape}, the base weight {base.W.shape}: give the adapter's own base")
    dense = formed(update)
    weight = base.W + dense
    after = base if np.array_equal(weight, base.W) else base_module(weight)
    known, rank = base.rank, min(base.rank, after.rank)
    sides = []
    for before_basis, after_basis in ((base.U, after.U), (base.V, after.V)):
        a, b = before_basis[:, :known], after_basis[:, : min(k, after.rank)]
        sides.append(Overlap(a, b, a.T @ b, rank))
    return Moved(base, dense, weight, after.s, *sides)


@dataclass(frozen=True)
class BaseMetric:
    """One metric of an update on its base.

    ``module(moved, k)`` is one module's value, ``overall(values, entries)`` the one of module "*" from all modules'
    values and numbers of entries; NaN where it is not defined. ``by_k``: one value for each k.
    """

    module: Callable[[Moved, int], float]
    overall: Callable[[Sequence[float], Sequence[int]], float]
    by_k: bool = False


def _intruders(m: Moved, k: int) -> float:
    return float(intruder_dimensions(m.left.cosines[:, :k])) if k <= m.left.b.shape[1] else math.nan


def _rotation(pair: Overlap, k: int) -> float:
    return rotation(pair, k) if k <= pair.rank else math.nan


def _principal(m: Moved, k: int) -> float:
    return principal_energy(m.update, m.base.U[:, :k], m.base.V[:, :k]) if k <= m.base.rank else math.nan


def _mean(values: Sequence[float], _: Sequence[int]) -> float:
    return mean(values)


def _median(values: Sequence[float], _: Sequence[int]) -> float:
    return median(values)


def _by_entries(values: Sequence[float], entries: Sequence[int]) -> float:
    return float(np.average(values, weights=entries))


BASE_METRICS: dict[str, BaseMetric] = {
    "intruder_dimensions": BaseMetric(_intruders, _mean, by_k=True),
    "base_rotation_left": BaseMetric(lambda m, k: _rotation(m.left, k), _median, by_k=True),
    "base_rotation_right": BaseMetric(lambda m, k: _rotation(m.right, k), _median, by_k=True),
    "spectrum_shift": BaseMetric(lambda m, _: spectrum_shift(m.base.s, m.s), _mean),
    "update_sparsity": BaseMetric(lambda m, _: update_sparsity(m.base.W, m.W), _by_entries),
    "principal_energy": BaseMetric(_principal, _mean, by_k=True),
    "small_weight_energy": BaseMetric(lambda m, _: small_energy(m.update, m.base.W), _mean),
}
"""Metric name -> how it is computed.

intruder_dimensions (number among the k leading directions, epsilon .5), spectrum_shift: "*" is the mean over modules.
base_rotation_left, base_rotation_right (degrees, largest angle of the top-k subspaces): "*" is the median.
update_sparsity (share of entries): "*" is the share of all modules' entries.
principal_energy, small_weight_energy (times what chance gives): "*" is the mean over modules.
"""


def base_rows(module: str, base: BaseModule, update: Update, ks: Sequence[int] = DEFAULT_KS) -> list[Row]:
    """Every metric of `BASE_METRICS` for one module. A k above min(out, in) has no row.

    NaN marks what is not defined: a k above the numerical rank of W0 or W0 + dW, the shift of a zero base.
    """
    if any(k < 1 for k in ks):
        raise InputError(f"geometry.ks is {tuple(ks)}; subspace dimensions are at least 1")
    dimensions = [k for k in sorted(set(ks)) if k <= len(base.s)]
    parts = moved(base, update, max(dimensions, default=1))
    rows: list[Row] = []
    for name, metric in BASE_METRICS.items():
        if metric.by_k:
            rows += [(module, name, k, metric.module(parts, k)) for k in dimensions]
        else:
            rows.append((module, name, None, metric.module(parts, 1)))
    return rows


def overall_rows(rows: Sequence[Row], entries: dict[str, int]) -> list[Row]:
    """Module "*" of `base_rows` of several modules; ``entries``: module -> out * in."""
    grouped: dict[tuple[str, int | None], list[tuple[str, float]]] = {}
    for module, name, k, value in rows:
        grouped.setdefault((name, k), []).append((module, value))
    return [
        ("*", name, k, BASE_METRICS[name].overall([v for _, v in found], [entries[m] for m, _ in found]))
        for (name, k), found in grouped.items()
    ]


def _svd(weight: Array) -> tuple[Array, Array, Array]:
    """Thin SVD in float64, on a GPU where torch sees one."""
    import torch

    if not torch.cuda.is_available():
        return np.linalg.svd(weight, full_matrices=False)  # torch's is no faster on a CPU
    parts = torch.linalg.svd(torch.from_numpy(np.ascontiguousarray(weight)).cuda(), full_matrices=False)
    u, s, vt = (part.cpu().numpy() for part in parts)
    return u, s, vt
