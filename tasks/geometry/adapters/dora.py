"""DoRA's update from its factors and the base's weights: no model is merged, and no update multiplied out for it.

DoRA (arXiv 2402.09353, eq. 5), as PEFT computes it: ``W' = diag(m / n) (W + s B A)``, ``n_i`` the norm of row i of
``W + s B A`` (out, in). So ``dW = diag(g - 1) W + s diag(g) B A`` with ``g = m / n``, and ``n_i^2 = |w_i|^2 +
2 s <(W A^T)_i, b_i> + s^2 b_i A A^T b_i^T``: of the base its rows' norms and W A^T are needed, which one pass gives.
"""

from __future__ import annotations

import math
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np

from tasks.core.errors import InputError
from tasks.geometry.adapters.adapter import AdapterSource
from tasks.geometry.adapters.checkpoint import Checkpoint
from tasks.geometry.adapters.rounding import LIMIT, NAMES, rounded_to
from tasks.geometry.cosine import CANCELS, module_inner
from tasks.geometry.delta import Array, Dense, Factors, NotFinite, Rescaled, Weight, check_finite, formed

HALF = ("BF16", "F16")


class Weights:
    """The base's weights, each read once for all updates that hold it at one time."""

    def __init__(self, base: Checkpoint) -> None:
        self.base = base
        self._held: WeakValueDictionary[str, Weight] = WeakValueDictionary()

    def read(self, module: str, shape: tuple[int, int], *, embedding: bool = False) -> Weight:
        """A module's weight, (out, in) float64; raises `InputError` as `Checkpoint.read_weight` does."""
        name = self.base.weight_of(module)
        weight = self._held.get(name)
        if weight is None or weight.W.shape != shape:
            entries = self.base.read_weight(module, shape, embedding=embedding)
            weight = self._held[name] = Weight(entries, np.einsum("ij,ij->i", entries, entries))
        return weight


class DoraSource:
    """A PEFT DoRA directory as a `Source`; it may have rsLoRA's scale, patterns and embeddings, as `AdapterSource`.

    Raises `InputError` naming the file and the module: a module without magnitudes, or with another number of them than
    rows; a base that lacks a module or has it in another shape.
    """

    rank = None

    def __init__(self, folder: Path, weights: Weights) -> None:
        self.factors = AdapterSource(folder, dora=True)
        self.source, self.shapes, self._weights = self.factors.source, self.factors.shapes, weights
        file = self.factors.weights
        for name, shape in self.shapes.items():
            key = self.factors.magnitudes.get(name)
            if key is None:
                raise InputError(f"{file.path}: module {name} has no lora_magnitude_vector, which use_dora promises")
            file.check_floating(key)
            if math.prod(file.shapes[key]) != shape[0]:
                raise InputError(
                    f"{file.path}: module {name}: lora_magnitude_vector {file.shapes[key]} is not of {shape[0]} rows"
                )
            weights.base.shape_of(name)
        self._start: dict[str, tuple[float, float, float]] = {}
        """Module -> inner product of its magnitudes' change with the rounding of their start, and squared norms of that
        rounding and of the update; of those that were read and whose base is in half precision."""

    def read(self, module: str) -> Rescaled | Dense:
        """One module's update, float64, as `rescaled` has it. Raises `NotFinite`."""
        file, where = self.factors.weights, f"{self.source}: module {module}"
        factors = self.factors.read(module)
        magnitude = file.read(self.factors.magnitudes[module]).reshape(-1)
        check_finite(magnitude, "lora_magnitude_vector", where)
        weight = self._weights.read(module, self.shapes[module], embedding=self.factors.is_embedding(module))
        update = rescaled(weight, factors, magnitude, where)
        kind = self._weights.base.kind_of(module)
        if kind in HALF and isinstance(update, Rescaled):
            norms = np.sqrt(weight.squared)
            start = np.divide(rounded_to(norms, kind), norms, out=np.ones_like(norms), where=norms > 0) - 1
            with_start, alone = (float((one * start) @ weight.squared) for one in (update.d, start))
            self._start[module] = (with_start, alone, module_inner(update, update))
        return update

    def warning(self) -> str | None:
        """What PEFT's rounding of the first magnitudes does to the update; None where there is none worth a word.

        PEFT takes the first magnitudes as the norms of the base's rows in the base's precision, and computes with exact
        norms later: the model is rescaled by that rounding before its first step, every adapter of the base alike.
        Whether an adapter has it the magnitudes show: their change has 1 or 0 times that rounding in it, as what is
        learned has nothing to do with it. Known when all modules have been read.
        """
        with_start, start, whole = (math.fsum(one[i] for one in self._start.values()) for i in range(3))
        share = math.sqrt(start / whole) if whole > 0 else 0.0
        if share <= LIMIT or with_start < 0.5 * start:
            return None
        kinds = {NAMES[self._weights.base.kind_of(name)] for name in self._start}
        return (
            f"DoRA on a {'/'.join(sorted(kinds))} base: PEFT rounds the first magnitudes to its precision, and that "
            f"alone, in which nothing was learned, is {100 * share:.0f} % of this update's norm; it is the same in "
            "every such adapter of the base, so that cosines among them are too near 1"
        )


def rescaled(weight: Weight, factors: Factors, magnitude: Array, where: str) -> Rescaled | Dense:
    """DoRA's update of one module from its base's weight, its LoRA factors and its magnitudes (out,).

    `Dense` where its two parts nearly cancel, so that inner products of the parts would lose their digits. Raises
    `NotFinite` with ``where`` for a row of W + s B A that is zero, by whose norm DoRA divides.
    """
    b, a = factors.scale * factors.B, factors.A
    along, product = weight.W @ a.T, _of_rows(b, b @ (a @ a.T))
    squared = weight.squared + 2 * _of_rows(along, b) + product
    lost = squared < CANCELS * (weight.squared + product)
    squared[lost] = np.sum((weight.W[lost] + b[lost] @ a) ** 2, axis=1)
    if zero := np.count_nonzero(squared == 0):
        raise NotFinite(f"{where}: {zero} of {len(squared)} rows of W + B A are zero, and DoRA divides by their norm")
    g = magnitude / np.sqrt(squared)
    update = Rescaled(g - 1, g[:, None] * b, a, weight, along)
    parts = float(update.d**2 @ weight.squared + g**2 @ product)
    whole = module_inner(update, update)
    return Dense(formed(update), a) if whole < CANCELS * parts else update


def _of_rows(x: Array, y: Array) -> Array:
    """Inner products of the rows of two matrices."""
    return np.asarray(np.einsum("ij,ij->i", x, y))
