"""LoRA weight updates in factored form: ``dW = scale * B A`` per module, never multiplied out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.contracts import InputError
from tasks.geometry.peft_config import LoraConfig, read_config
from tasks.geometry.tensors import read_tensors

Array = NDArray[np.float64]

WEIGHTS = "adapter_model.safetensors"
_LORA_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")


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


@dataclass(frozen=True, eq=False)
class LoraDelta:
    """The update of a whole adapter: module name -> `Factors`, in the model's order, all float64.

    Raises `InputError` naming ``source`` and the module when it has no module, when shapes do not fit each other, or
    when entries are NaN or infinite.
    """

    modules: Mapping[str, Factors]
    source: str = "adapter"
    """What errors call it; the directory for an adapter that was read from disk."""

    def __post_init__(self) -> None:
        if not self.modules:
            raise InputError(f"{self.source}: no LoRA module in it")
        ordered = sorted(self.modules, key=_natural)
        modules = {name: _checked(self.modules[name], f"{self.source}: module {name}") for name in ordered}
        object.__setattr__(self, "modules", MappingProxyType(modules))


def load_delta(path: str | Path) -> LoraDelta:
    """Read a PEFT LoRA directory (``adapter_config.json`` and ``adapter_model.safetensors``).

    Files may hold float64, float32, float16 or bfloat16; arithmetic is float64 from here on. Scaling is PEFT's:
    ``alpha / r``, ``alpha / sqrt(r)`` for rsLoRA, with ``rank_pattern`` and ``alpha_pattern`` applied.

    ``B A`` has shape (out, in) also where PEFT stores the base transposed (``fan_in_fan_out``): left is always output.

    Raises `InputError` naming the file and the field or module: a file that is missing or damaged, an adapter whose
    true update is not ``scale * B A`` (DoRA, PiSSA, saved full weights, ...), a module without its A or its B.
    """
    folder = Path(path)
    config = read_config(folder)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise InputError(_no_weights(folder))
    return LoraDelta(_modules(read_tensors(weights), config, weights), source=str(folder))


def layer_of(module: str) -> int | None:
    """``model.layers.3.self_attn.q_proj -> 3``: the first number in the name; None where there is none."""
    return next((int(part) for part in module.split(".") if part.isdecimal()), None)


def projection_of(module: str) -> str:
    """``model.layers.3.self_attn.q_proj -> q_proj``: the last part of the name."""
    return module.rsplit(".", 1)[-1]


def shared(a: LoraDelta, b: LoraDelta) -> list[str]:
    """The modules that both adapters update, in the model's order.

    Raises `InputError` when there is none, or when one of them has another shape in ``b`` (another base model).
    """
    names = [name for name in a.modules if name in b.modules]
    if not names:
        raise InputError(f"{a.source} and {b.source} share no module: compare adapters of the same base and targets")
    for name in names:
        if a.modules[name].shape != b.modules[name].shape:
            raise InputError(
                f"module {name} is {a.modules[name].shape} in {a.source} and {b.modules[name].shape} in {b.source}: "
                "compare adapters of the same base model"
            )
    return names


def unshared(a: LoraDelta, b: LoraDelta) -> tuple[list[str], list[str]]:
    """Modules only in ``a`` and modules only in ``b``: what a comparison leaves out, for the caller to report."""
    return [name for name in a.modules if name not in b.modules], [name for name in b.modules if name not in a.modules]


def _modules(tensors: dict[str, Array], config: LoraConfig, file: Path) -> dict[str, Factors]:
    found: dict[str, dict[str, Array]] = {}
    for key, tensor in sorted(tensors.items()):
        match = _LORA_KEY.fullmatch(key)
        if match is None:
            raise InputError(f"{file}: tensor {key} is not a plain LoRA factor (base_model.model.*.lora_[AB].weight)")
        found.setdefault(match["module"], {})[match["factor"]] = tensor
    modules = {}
    for name, factors in found.items():
        if len(factors) < 2:
            raise InputError(f"{file}: module {name} has no lora_{'B' if 'A' in factors else 'A'}.weight")
        scale, rank = config.scale(name), config.rank(name)
        if factors["A"].shape[0] != rank:
            raise InputError(
                f"{file}: module {name} has rank {factors['A'].shape[0]}, its adapter_config.json says {rank} "
                "(r, rank_pattern): the two files do not belong together"
            )
        modules[name] = Factors(factors["B"], factors["A"], scale)
    return modules


def _checked(factors: Factors, where: str) -> Factors:
    b, a = np.asarray(factors.B, dtype=np.float64), np.asarray(factors.A, dtype=np.float64)
    if b.ndim != 2 or a.ndim != 2 or b.shape[1] != a.shape[0] or 0 in (*b.shape, *a.shape):
        raise InputError(f"{where}: B {b.shape} and A {a.shape} are not (out, r) and (r, in)")
    if not np.isfinite(factors.scale):
        raise InputError(f"{where}: scale is {factors.scale}")
    for name, matrix in (("B", b), ("A", a)):
        if bad := int(np.count_nonzero(~np.isfinite(matrix))):
            raise InputError(f"{where}: {bad} of {matrix.size} entries of lora_{name} are NaN or infinite")
    return Factors(b, a, float(factors.scale))


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key that puts layer 2 before layer 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split(".")]


def _no_weights(folder: Path) -> str:
    if (folder / "adapter_model.bin").is_file():
        return (
            f"{folder}: adapter_model.bin is a pickle and is not read; load it with PEFT and save it again as "
            f"{WEIGHTS} (`PeftModel.save_pretrained`)"
        )
    return f"{folder}: {WEIGHTS} is missing; give a directory that PEFT saved"
