"""Every metric by its definition on the formed matrices: LAPACK's whole SVD in float64, nothing factored."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np


class Formed:
    """One module's update as a matrix. ``floor``: singular values up to it count as zero."""

    def __init__(self, w: np.ndarray, width: int, lora_a: np.ndarray | None, floor: float) -> None:
        self.w, self.width, self.lora_a, self.floor = w, width, lora_a, floor

    @cached_property
    def svd(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return np.linalg.svd(self.w, full_matrices=False)

    @property
    def s(self) -> np.ndarray:
        return np.where(self.svd[1] > self.floor, self.svd[1], 0.0)[: self.width]

    @property
    def rank(self) -> int:
        return int(np.count_nonzero(self.s))

    @cached_property
    def norm(self) -> float:
        return float(np.linalg.norm(self.w)) if self.rank else 0.0

    def basis(self, side: str, k: int) -> np.ndarray:
        return self.svd[0][:, :k] if side == "left" else self.svd[2][:k].T


def dora(w: np.ndarray, product: np.ndarray, magnitude: np.ndarray) -> np.ndarray:
    """DoRA (arXiv 2402.09353, eq. 5): what it adds to ``w`` (out, in); ``product``: scale * B A; norms row by row."""
    direction = w.astype(np.longdouble) + product
    norms = np.sqrt(np.sum(direction**2, axis=1, keepdims=True))
    return (magnitude[:, None] * direction / norms - w).astype(np.float64)


Modules = Mapping[str, Formed]


def pair_value(metric: str, k: int | None, a: Modules, b: Modules) -> float:
    """The metric over all modules of ``a`` and ``b`` (which have the same): one module's value where there is one."""
    pairs = [(a[name], b[name]) for name in a]
    if metric == "lora_a_cosine":
        pairs = [(x, y) for x, y in pairs if _comparable(x.lora_a, y.lora_a)]
        return _cosine(*(np.concatenate([np.zeros(1), *(p[i].lora_a.ravel() for p in pairs)]) for i in (0, 1)))
    if metric == "cosine":
        return _cosine(*(np.concatenate([p[i].w.ravel() * (p[i].norm > 0) for p in pairs]) for i in (0, 1)))
    norms = [np.sqrt(sum(p[i].norm ** 2 for p in pairs)) for i in (0, 1)]
    if metric == "norm_ratio":
        return norms[0] / norms[1] if norms[1] else np.nan
    if metric.startswith("orthogonal_fraction"):
        turned = pairs if metric == "orthogonal_fraction" else [(y, x) for x, y in pairs]
        whole = np.sqrt(sum(d.norm**2 for d, _ in turned))
        return float(np.sqrt(sum(np.sum(_rest(d, r) ** 2) for d, r in turned)) / whole) if whole else np.nan
    values = [_one(metric, k or 1, x, y) for x, y in pairs]
    defined = [value for value in values if not np.isnan(value)]
    over = np.median if metric.startswith("angle") else np.mean
    return float(over(defined)) if defined else np.nan


def _one(metric: str, k: int, x: Formed, y: Formed) -> float:
    if min(x.rank, y.rank) < k:
        return np.nan
    side = "left" if metric == "u1_overlap" or metric.endswith("_left") else "right"
    p, q = x.basis(side, k), y.basis(side, k)
    if metric.startswith("angle"):  # the sine and the cosine, each exact where the other is not
        place = 0 if "min" in metric else -1
        sines = np.linalg.svd(q - p @ (p.T @ q), compute_uv=False)[::-1]
        return float(np.rad2deg(np.arctan2(sines[place], np.linalg.svd(p.T @ q, compute_uv=False)[place])))
    return float(np.sum((p.T @ q) ** 2) / k) if metric.startswith("phi") else abs(float(p[:, 0] @ q[:, 0]))


def random_cosines(a: Modules, b: Modules, draws: int, rng: np.random.Generator, *, given_right: bool) -> np.ndarray:
    """(draws,) cosines over all modules with b's singular vectors replaced by Haar ones, of every singular value;
    ``given_right``: its right ones stay as they are."""
    inner = np.zeros(draws)
    for name, x in a.items():
        _, s, vt = b[name].svd
        for draw in range(draws):
            left = _haar(x.w.shape[0], len(s), rng)
            right = vt.T if given_right else _haar(x.w.shape[1], len(s), rng)
            inner[draw] += np.sum(x.w * (left * s @ right.T))
    return inner / np.prod([np.sqrt(sum(np.sum(one.w**2) for one in side.values())) for side in (a, b)])


def _haar(n: int, k: int, rng: np.random.Generator) -> np.ndarray:
    q, r = np.linalg.qr(rng.standard_normal((n, k)))
    return q * np.sign(np.diag(r))


def spectrum_value(metric: str, k: int | None, modules: Modules) -> float:
    """The measure of `tasks.geometry.spectrum` over all of ``modules``."""
    if metric == "norm":
        return float(np.sqrt(sum(module.norm**2 for module in modules.values())))
    values = [_rank(metric, k, module.s) for module in modules.values() if module.rank or metric == "singular_value"]
    return float(np.mean(values)) if values else np.nan


def _rank(metric: str, k: int | None, s: np.ndarray) -> float:
    p = s[s > 0] / s.sum() if s.any() else s
    match metric:
        case "singular_value":
            return float(s[(k or 1) - 1])
        case "effective_rank":
            return float(np.exp(-np.sum(p * np.log(p))))
        case "participation_rank":
            return float(np.sum(s) ** 2 / np.sum(s**2))
        case "stable_rank":
            return float(np.sum(s**2) / np.max(s) ** 2)
    raise AssertionError(metric)


def _comparable(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return a is not None and b is not None and a.shape == b.shape


def _cosine(x: np.ndarray, y: np.ndarray) -> float:
    norms = np.linalg.norm(x), np.linalg.norm(y)
    return float(x / norms[0] @ (y / norms[1])) if all(norms) else np.nan


def _rest(d: Formed, reference: Formed) -> np.ndarray:
    if not reference.norm:
        return d.w
    unit = reference.w / reference.norm
    rest = d.w - np.sum(unit * d.w) * unit
    return rest - np.sum(unit * rest) * unit  # once more, for what rounding left


def activation_cosine(
    a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]
) -> float:
    """Cosine of what two dense updates (out, in) make of the same ``inputs`` (N, in), all modules together."""
    outputs = [np.concatenate([(inputs[name] @ one[name].T).ravel() for name in a]) for one in (a, b)]
    return _cosine(*outputs)


def random_activation_cosines(
    a: np.ndarray, b: np.ndarray, second: np.ndarray, draws: int, rng: np.random.Generator, *, given_right: bool
) -> np.ndarray:
    """(draws,) activation-weighted cosines of one module with b's singular vectors replaced by Haar ones, of every
    singular value; ``second``: S. ``given_right``: its right ones stay as they are."""
    found = np.zeros(draws)
    _, s, vt = np.linalg.svd(b, full_matrices=False)
    for draw in range(draws):
        left = _haar(a.shape[0], len(s), rng)
        right = vt.T if given_right else _haar(a.shape[1], len(s), rng)
        drawn = left * s @ right.T
        found[draw] = np.sum(a @ second * drawn) / np.sqrt(np.sum(a @ second * a) * np.sum(drawn @ second * drawn))
    return found
