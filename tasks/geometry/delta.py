"""Weight updates module by module: ``dW = scale * B A``, never multiplied out, and where adapters' names lead."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tasks.core.errors import InputError
from tasks.core.places import core

Array = NDArray[np.float64]

LARGEST, SMALLEST = 1e60, 1e-60
"""Bounds of an update's largest entry. Between them squared norms, and the ratio of any two, are in double precision;
beyond them a square is inf or 0, and with it a cosine 0 or undefined. Float32 factors are far inside."""


class Factors(NamedTuple):
    """One module's update ``dW = scale * B @ A`` of shape (out, in)."""

    B: Array
    """(out, r)"""
    A: Array
    """(r, in)"""
    scale: float

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of the update."""
        return self.B.shape[0], self.A.shape[1]


class Dense(NamedTuple):
    """One module's update where no small factors give it: merged weights less the base's."""

    W: Array
    """(out, in)"""
    lora_a: Array | None = None
    """(r, in) lora_A, where the adapter has one: it tells which initialisation the adapter began from."""
    rounded: bool = False
    """Whether the rounding of the weights is too large a share of it for a rank: see
    `tasks.geometry.adapters.rounding`."""

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of the update."""
        return self.W.shape[0], self.W.shape[1]


@dataclass(frozen=True, eq=False)
class Weight:
    """A module's weight in the base, which all updates that rescale its rows hold together."""

    W: Array
    """(out, in)"""
    squared: Array
    """(out,) ``|w_i|^2`` of its rows."""


class Rescaled(NamedTuple):
    """One module's update that rescales the rows of the base's weight beside a product, as DoRA's does:
    ``dW = diag(d) W + B A``, of full rank."""

    d: Array
    """(out,)"""
    B: Array
    """(out, r), its scale and the rows' included"""
    A: Array
    """(r, in)"""
    base: Weight
    along: Array
    """(out, r) ``W A^T``"""

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of the update."""
        return self.B.shape[0], self.A.shape[1]


Update = Factors | Dense | Rescaled


def formed(update: Update) -> Array:
    """(out, in) the update multiplied out: for singular values of what has no small rank, never for inner products."""
    if isinstance(update, Dense):
        return update.W
    if isinstance(update, Factors):
        return update.scale * (update.B @ update.A)
    dense = update.B @ update.A
    dense += update.d[:, None] * update.base.W
    return dense


class NotFinite(InputError):
    """A module with NaN or infinite entries; the message says which and how many."""


class Source(Protocol):
    """Where updates come from, one module at a time: memory need not hold an adapter."""

    @property
    def source(self) -> str:
        """What errors call it."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, int]]:
        """Module name -> (out, in), in the model's order."""

    @property
    def rank(self) -> int | None:
        """Smallest min(r, out, in) of its modules; None where its updates have no small rank."""

    def read(self, module: str) -> Update:
        """One module's update, float64; a `Dense` one may bring its lora_A. Raises `NotFinite`."""


@dataclass(frozen=True, eq=False)
class LoraDelta:
    """The update of a whole adapter in memory: module name -> `Factors`, in the model's order, all float64.

    Raises `InputError` naming ``source`` and the module when it has no module, when shapes do not fit each other, or
    when entries are NaN or infinite.
    """

    modules: Mapping[str, Factors]
    source: str = "adapter"
    """What errors call it; the directory for an adapter that was read from disk."""

    def __post_init__(self) -> None:
        if not self.modules:
            raise InputError(f"{self.source}: no LoRA module in it")
        ordered = sorted(self.modules, key=natural)
        modules = {name: checked_factors(self.modules[name], f"{self.source}: module {name}") for name in ordered}
        object.__setattr__(self, "modules", MappingProxyType(modules))

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Module name -> (out, in)."""
        return {name: factors.shape for name, factors in self.modules.items()}

    @property
    def rank(self) -> int:
        """Smallest min(r, out, in) of its modules."""
        return min(min(factors.B.shape[1], *factors.shape) for factors in self.modules.values())

    def read(self, module: str) -> Factors:
        """One module's update."""
        return self.modules[module]


def load_delta(path: str | Path) -> LoraDelta:
    """Read a PEFT LoRA directory: the update ``scale * B A`` of each of its modules, as factors in float64.

    `tasks.geometry.adapters.adapter.AdapterSource` says what is read and what is refused (`InputError`, which names
    the file).

    Examples
    --------
    >>> import json, pathlib, tempfile
    >>> import numpy as np
    >>> from safetensors.numpy import save_file
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> name = "base_model.model.model.layers.0.self_attn.q_proj"
    >>> lora_a, lora_b = np.eye(2, 6, dtype=np.float32), np.ones((4, 2), dtype=np.float32)
    >>> save_file({f"{name}.lora_A.weight": lora_a, f"{name}.lora_B.weight": lora_b},
    ...           folder / "adapter_model.safetensors")
    >>> _ = (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
    >>> delta = load_delta(folder)
    >>> delta.shapes
    {'model.layers.0.self_attn.q_proj': (4, 6)}
    >>> delta.modules["model.layers.0.self_attn.q_proj"].scale  # lora_alpha / r
    2.0
    """
    from tasks.geometry.adapters.adapter import AdapterSource

    adapter = AdapterSource(Path(path))
    return LoraDelta({name: adapter.read(name) for name in adapter.shapes}, source=adapter.source)


def shared(a: Source, b: Source) -> list[str]:
    """The modules that both adapters update, in the model's order.

    Raises `InputError` when there is none, or when one of them has another shape in ``b`` (another base model).
    """
    theirs = b.shapes
    names = [name for name in a.shapes if name in theirs]
    if not names:
        raise InputError(
            f"{a.source} and {b.source}: no module in common ({next(iter(a.shapes))}, ... and "
            f"{next(iter(theirs))}, ...): their targets or their base models differ"
        )
    for name in names:
        if a.shapes[name] != theirs[name]:
            raise InputError(
                f"module {name} is {a.shapes[name]} in {a.source} and {theirs[name]} in {b.source}: "
                "compare adapters of the same base model"
            )
    return names


@dataclass(frozen=True, eq=False)
class Renamed:
    """A source whose modules have other names; ``own``: name here -> name there."""

    inner: Source
    own: Mapping[str, str]

    @property
    def source(self) -> str:
        """As the inner one's."""
        return self.inner.source

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Module name -> (out, in), in the model's order."""
        return {name: self.inner.shapes[self.own[name]] for name in sorted(self.own, key=natural)}

    @property
    def rank(self) -> int | None:
        """As the inner one's."""
        return self.inner.rank

    def read(self, module: str) -> Update:
        """One module's update."""
        return self.inner.read(self.own[module])


def aligned(sources: Sequence[Source]) -> list[Source]:
    """The sources with one spelling of each module's name: that of the first source which has it.

    One model saved by two classes has ``language_model.model.layers`` in one file and ``model.language_model.layers``
    in the other. Names are one module's where their `core` is, and where neither source has two of that core.
    """
    spelled: dict[str, str] = {}
    found: list[Source] = []
    for source in sources:
        there, cores = set(spelled.values()), Counter(map(core, source.shapes))
        single = {name: core(name) for name in source.shapes if cores[core(name)] == 1}
        own = {name if name in there else spelled.get(single.get(name, ""), name): name for name in source.shapes}
        same = len(own) < len(source.shapes) or all(here == name for here, name in own.items())
        found.append(source if same else Renamed(source, own))
        spelled = {core(name): name for name in found[-1].shapes if cores[core(name)] == 1} | spelled
    return found


def unshared(a: Source, b: Source) -> tuple[list[str], list[str]]:
    """Modules only in ``a`` and modules only in ``b``: what a comparison leaves out, for the caller to report."""
    return [name for name in a.shapes if name not in b.shapes], [name for name in b.shapes if name not in a.shapes]


def checked_factors(factors: Factors, where: str) -> Factors:
    """``factors`` in float64. Raises `InputError` when their shapes do not fit, `NotFinite` for bad entries."""
    b, a = np.asarray(factors.B, dtype=np.float64), np.asarray(factors.A, dtype=np.float64)
    if b.ndim != 2 or a.ndim != 2 or b.shape[1] != a.shape[0] or 0 in (*b.shape, *a.shape):
        raise InputError(f"{where}: B {b.shape} and A {a.shape} are not (out, r) and (r, in)")
    if not np.isfinite(factors.scale):
        raise InputError(f"{where}: scale is {factors.scale}")
    for name, matrix in (("lora_B", b), ("lora_A", a)):
        check_finite(matrix, name, where)
    return Factors(b, a, float(factors.scale))


def check_finite(matrix: Array, name: str, where: str) -> None:
    """Raises `NotFinite` with the share of entries that are NaN or infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(matrix.sum()):  # a sum of finite numbers may overflow; then they are counted
            return
    if bad := int(np.count_nonzero(~np.isfinite(matrix))):
        share = 100 * bad / matrix.size
        raise NotFinite(f"{where}: {bad} of {matrix.size} entries ({share:.3g} %) of {name} are NaN or infinite")


def check_size(update: Update, where: str) -> None:
    """Refuse an update too large or too small to be squared; one that is exactly zero passes.

    Raises `InputError` with the part that is beyond `LARGEST`, or the update whose entries are all below `SMALLEST`.
    """
    beside: dict[str, float] = {}
    if isinstance(update, Dense):
        whole, factors = "the update", {"the update": _peak(update.W)}
        if update.lora_a is not None:
            beside["lora_A"] = _peak(update.lora_a)
    elif isinstance(update, Rescaled):
        parts = _peak(update.d) * _peak(update.base.W), _peak(update.B) * _peak(update.A)
        whole, factors, beside = "the update", {"the update": max(parts)}, {"lora_A": _peak(update.A)}
    else:
        whole = "scale * B A"
        factors = {"lora_B": _peak(update.B), "lora_A": _peak(update.A), "scale": abs(update.scale)}
    for name, size in {**factors, **beside}.items():
        if size > LARGEST:
            raise InputError(f"{where}: {name} reaches {size:.3g}; {_RANGE}")
    product = math.prod(factors.values())
    if product > LARGEST:
        raise InputError(f"{where}: {whole} reaches {product:.3g}; {_RANGE}")
    if product < SMALLEST and all(factors.values()):
        raise InputError(f"{where}: {whole} is not zero, yet nowhere above {product:.3g}; {_RANGE}")


_RANGE = (
    f"beyond {SMALLEST:g} to {LARGEST:g} squared norms leave double precision; correct lora_alpha or the weights, or "
    "leave this adapter out"
)


def _peak(matrix: Array) -> float:
    """The largest absolute entry."""
    return float(max(matrix.max(), -matrix.min()))


def natural(name: str) -> list[tuple[int, str]]:
    """Sort key that puts layer 2 before layer 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split(".")]
