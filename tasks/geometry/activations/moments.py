"""Second moments ``S = E[x x^T]`` of modules' inputs: whole, or of low rank beside a diagonal where they are too wide.

In the inner product ``<dW, dW'>_S = tr(dW S dW'^T)`` an update counts by what it does to inputs that occur: it is the
mean of ``<dW x, dW' x>`` over them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.core.errors import InputError
from tasks.core.places import core
from tasks.geometry.delta import Array

MOST_WIDTH = 4096
"""Inputs up to which S is kept whole: 67 MB in float32. Of 9,728 inputs it would be 378 MB, in every layer."""
RANK = 512
"""Of what is kept of a wider one, beside its diagonal: 20 MB of 9,728 inputs."""
FILE = "moments.safetensors"


@dataclass(frozen=True, eq=False)
class Moment:
    """S of one module's input. ``matrix`` is S (in, in); with a ``rest`` it is F (in, l) and ``S ~ F F^T + diag(rest)``
    with the exact diagonal. Of any float type; what is computed with them is float64."""

    matrix: NDArray[np.floating]
    rest: NDArray[np.floating] | None = None
    """(in,)"""

    def times(self, rows: Array) -> Array:
        """``rows S``, of (k, in) the same shape."""
        matrix = self.matrix.astype(np.float64)
        if self.rest is None:
            return np.asarray(rows @ matrix)
        return np.asarray((rows @ matrix) @ matrix.T + rows * self.rest.astype(np.float64))

    @property
    def diagonal(self) -> Array:
        """(in,) mean squares of the inputs."""
        if self.rest is None:
            return np.diag(self.matrix).astype(np.float64)
        return np.asarray(np.sum(self.matrix.astype(np.float64) ** 2, axis=1) + self.rest)

    @property
    def outside(self) -> float:
        """Share of the trace of S that is in ``rest``, where only the diagonal is right; 0 for the whole S."""
        return 0.0 if self.rest is None else float(np.sum(self.rest) / max(np.sum(self.diagonal), 1e-300))


def low_rank(sketch: Array, test: Array, diagonal: Array) -> Moment:
    """S from its product with a test matrix: ``sketch = S test`` (in, l), and its exact ``diagonal`` (in,).

    The Nyström approximation ``Y (T^T Y)^+ Y^T`` in the stable form of Tropp et al. 2017 (arXiv 1706.05736, algorithm
    3), which lies below S, and what it lacks of the diagonal. S needs rank l, or a spectrum that falls; what is lost is
    said by `Moment.outside`.
    """
    shift = float(np.finfo(np.float32).eps * np.linalg.norm(sketch))  # the sums are in float32
    if shift == 0:
        return Moment(np.zeros_like(sketch), diagonal)
    shifted = sketch + shift * test
    gram = test.T @ shifted
    values, vectors = np.linalg.eigh((gram + gram.T) / 2)
    known = values > shift
    left, s, _ = np.linalg.svd(shifted @ (vectors[:, known] / np.sqrt(values[known])), full_matrices=False)
    factor = left * np.sqrt(np.maximum(s**2 - shift, 0))
    below = np.sum(factor**2, axis=1)
    # Rounding may lift a row of F above the diagonal, which is exact.
    factor *= np.sqrt(np.divide(np.minimum(below, diagonal), below, out=np.zeros_like(below), where=below > 0))[:, None]
    return Moment(factor, np.maximum(diagonal - np.sum(factor**2, axis=1), 0))


@dataclass(frozen=True, eq=False)
class Moments:
    """The second moments of a base's modules. ``shared``: module's core name -> that of the module whose input it has
    (q, k and v have one input); ``moments`` has one for each input."""

    moments: Mapping[str, Moment]
    shared: Mapping[str, str]

    def __contains__(self, module: str) -> bool:
        return core(module) in self.shared

    def of(self, module: str) -> Moment:
        """The one of a module, by its name in whatever spelling (`tasks.geometry.delta.core`)."""
        return self.moments[self.shared[core(module)]]

    def write(self, folder: Path) -> None:
        """``moments.safetensors``, float32: S as ``NAME``, or F and the rest as ``NAME.factor`` and ``NAME.rest``."""
        from safetensors.numpy import save_file

        tensors: dict[str, NDArray[np.float32]] = {}
        for name, moment in self.moments.items():
            tensors[name if moment.rest is None else f"{name}.factor"] = np.ascontiguousarray(moment.matrix, np.float32)
            if moment.rest is not None:
                tensors[f"{name}.rest"] = np.ascontiguousarray(moment.rest, np.float32)
        save_file(tensors, folder / FILE, metadata={"shared": json.dumps(dict(self.shared))})


class _Stored(Mapping[str, Moment]):
    """The moments in a file, each read when it is asked for."""

    def __init__(self, file: Path) -> None:
        from safetensors import safe_open

        self._file = safe_open(str(file), framework="np")
        self.shared: dict[str, str] = json.loads((self._file.metadata() or {})["shared"])
        self._names = list(dict.fromkeys(self.shared.values()))

    def __getitem__(self, name: str) -> Moment:
        if name in self._file.keys():  # noqa: SIM118 (it is no mapping)
            return Moment(self._file.get_tensor(name))
        return Moment(self._file.get_tensor(f"{name}.factor"), self._file.get_tensor(f"{name}.rest"))

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def read_moments(folder: Path) -> Moments:
    """What `Moments.write` wrote; memory holds the one that is in use. Raises `InputError` for a damaged file."""
    from safetensors import SafetensorError

    try:
        stored = _Stored(folder / FILE)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise InputError(f"{folder / FILE}: not the second moments of a base ({error}); measure them again") from error
    return Moments(stored, stored.shared)
