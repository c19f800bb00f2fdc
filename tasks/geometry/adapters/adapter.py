"""A PEFT LoRA directory, read one module at a time."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

from tasks.core.errors import InputError
from tasks.core.visible import visible
from tasks.geometry.adapters.patterns import BY_KEY, LONGEST, check_patterns
from tasks.geometry.adapters.peft_config import CONFIG, read_config, read_json
from tasks.geometry.adapters.tensors import TensorFile, check_gathered
from tasks.geometry.delta import LARGEST, SMALLEST, Array, Factors, check_finite, checked_factors, natural

WEIGHTS = "adapter_model.safetensors"
_LORA_KEY = re.compile(
    r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>A|B|embedding_A|embedding_B)(\.default)?(\.weight)?"
)
_MAGNITUDE_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_magnitude_vector(\.default)?(\.weight)?")

WHOLE, BIASES, ODD = "whole tensors", "biases", "modules that are no matrices"
_ONE = {WHOLE: "whole tensor", BIASES: "bias", ODD: "module that is no matrix"}
"""What an adapter's file may hold beside factors of matrices."""


class _Module(NamedTuple):
    A: str
    B: str
    scale: float


class AdapterSource:
    """A PEFT LoRA directory (``adapter_config.json`` and ``adapter_model.safetensors``) as a `Source`.

    Opening reads the headers only; `read` reads one module's two factors. Files may hold float64, float32, float16 or
    bfloat16; arithmetic is float64 from there on. Scaling is PEFT's: ``alpha / r``, ``alpha / sqrt(r)`` for rsLoRA,
    with ``rank_pattern`` and ``alpha_pattern`` applied. ``B A`` has shape (out, in) also where PEFT stores the base
    transposed (``fan_in_fan_out``): left is always output. An embedding's update has shape (hidden, vocabulary).

    What else the file holds is in ``left_out``, to be said and not compared: whole tensors (a saved head, an embedding
    with new tokens), biases, factors that are no matrices (convolutions, stacked experts).

    ``dora``: take DoRA's factors too, with the names of their magnitudes, for `tasks.geometry.adapters.dora`.

    Raises `InputError` naming the file and the field or module: a file that is missing or damaged, an adapter whose
    true update is not ``scale * B A`` (DoRA, PiSSA, ...), a module without its A or its B.
    """

    def __init__(self, folder: Path, *, dora: bool = False) -> None:
        self.source, self._dora = str(folder), dora
        self.config = read_config(folder, dora=dora)
        file = folder / WEIGHTS
        if not file.is_file():
            raise InputError(no_weights(folder))
        self.weights = TensorFile(file)
        check_gathered(self.weights.shapes, file)
        self.left_out: dict[str, list[str]] = {}
        """What kind of thing -> its names, of all in the file that is no factor of a matrix."""
        self.magnitudes: dict[str, str] = {}
        """Module -> its tensor with DoRA's magnitudes."""
        self._modules = self._found()
        self.shapes = {name: self._shape(module) for name, module in self._modules.items()}
        self.ranks = {name: self.weights.shapes[module.A][0] for name, module in self._modules.items()}
        self.rank = min(min(self.ranks[name], *shape) for name, shape in self.shapes.items())

    def read(self, module: str) -> Factors:
        """One module's update, float64; raises `InputError` for shapes that do not fit, `NotFinite` for bad entries."""
        parts = self._modules[module]
        factors = Factors(self.weights.read(parts.B), self.weights.read(parts.A), parts.scale)
        return checked_factors(factors, f"{self.source}: module {module}")

    def keys(self, module: str) -> tuple[str, str]:
        """What the file calls the module's B and A."""
        return self._modules[module].B, self._modules[module].A

    def _shape(self, module: _Module) -> tuple[int, int]:
        return self.weights.shapes[module.B][0], self.weights.shapes[module.A][1]

    @property
    def note(self) -> str | None:
        """``left_out`` in a line; None where nothing was."""
        said = []
        for kind, names in self.left_out.items():
            listed = ", ".join(visible(name, LONGEST) for name in names[:3]) + (", ..." if len(names) > 3 else "")
            said.append(f"{len(names)} {kind if len(names) > 1 else _ONE[kind]} ({listed})")
        return f"not compared: {'; '.join(said)}" if said else None

    def _found(self) -> dict[str, _Module]:
        file, raw = self.weights.path, read_json(Path(self.source))
        parameters = [str(name).rpartition(".")[0] for name in raw.get("target_parameters") or ()]
        found: dict[str, dict[str, str]] = {}
        for key, shape in self.weights.shapes.items():
            match = _LORA_KEY.fullmatch(key) if len(key) <= LONGEST else None
            if self._dora and len(key) <= LONGEST and (magnitude := _MAGNITUDE_KEY.fullmatch(key)):
                self.magnitudes[magnitude["module"]] = key
                continue
            name = key.removeprefix("base_model.model.")
            if match is None:
                if "lora_" in name and not name.endswith(".bias"):
                    raise InputError(f"{file}: tensor {key} is not a LoRA factor (base_model.model.*.lora_[AB].weight)")
                self.left_out.setdefault(BIASES if name.endswith(".bias") else WHOLE, []).append(name)
            elif len(shape) > 2 or any(_ends_in(match["module"], owner) for owner in parameters):
                names = self.left_out.setdefault(ODD, [])
                names += [match["module"]] if match["module"] not in names else []
            else:
                found.setdefault(match["module"], {})[match["factor"]] = key
        odd = self.left_out.get(ODD, [])
        found = {name: keys for name, keys in found.items() if name not in odd}
        if not found:
            raise InputError(f"{self.source}: no LoRA module in it" + (f"; {self.note}" if self.note else ""))
        check_patterns({name: raw.get(name) for name in BY_KEY}, list(found), file.with_name(CONFIG))
        return {name: self._module(name, found[name]) for name in sorted(found, key=natural)}

    def _module(self, name: str, keys: dict[str, str]) -> _Module:
        file, embedding = self.weights.path, any(factor.startswith("embedding") for factor in keys)
        a, b = (keys.get(f"embedding_{side}" if embedding else side) for side in "AB")
        if a is None or b is None:
            raise InputError(f"{file}: module {name} has no lora_{'A' if a is None else 'B'}.weight")
        for factor in (a, b):
            self.weights.check_floating(factor)
        shapes, rank = self.weights.shapes, self.config.rank(name)
        if len(shapes[a]) != 2 or len(shapes[b]) != 2 or shapes[a][0] != shapes[b][1] or 0 in shapes[a] + shapes[b]:
            raise InputError(f"{file}: module {name}: B {shapes[b]} and A {shapes[a]} are not (out, r) and (r, in)")
        if shapes[a][0] != rank:
            raise InputError(
                f"{file}: module {name} has rank {shapes[a][0]}, its adapter_config.json says {rank} "
                "(r, rank_pattern): the two files do not belong together"
            )
        scale = self.config.scale(name)
        if not SMALLEST <= scale <= LARGEST:
            raise InputError(
                f"{file.with_name(CONFIG)}: lora_alpha gives module {name} the scale {scale:.3g}; it must be between "
                f"{SMALLEST:g} and {LARGEST:g}, or squared norms leave double precision"
            )
        return _Module(a, b, scale)

    def is_embedding(self, module: str) -> bool:
        """Whether the module's weight is stored (in, out), as embeddings' are."""
        return ".lora_embedding_" in self._modules[module].A


class LoraA:
    """The lora_A matrices of an adapter's file, whatever else is in it (DoRA's magnitudes, whole weights, ...)."""

    def __init__(self, folder: Path) -> None:
        self.source, self._file = str(folder), TensorFile(folder / WEIGHTS)
        found = ((key, _LORA_KEY.fullmatch(key)) for key, shape in self._file.shapes.items() if len(shape) == 2)
        self._keys = {match["module"]: key for key, match in found if match and match["factor"].endswith("A")}

    def read(self, module: str) -> Array | None:
        """(r, in) float64; None for a module that has none. Raises `NotFinite`."""
        if module not in self._keys:
            return None
        matrix = self._file.read(self._keys[module])
        check_finite(matrix, "lora_A", f"{self.source}: module {module}")
        return matrix


def _ends_in(module: str, owner: str) -> bool:
    """Whether a module is the one that PEFT's ``target_parameters`` names, or a second parameter's wrapper of it."""
    parts, last = [part for part in module.split(".") if part != "base_layer"], owner.split(".")
    return bool(owner) and parts[-len(last) :] == last


def unpickle(folder: Path) -> str:
    """The command that writes `WEIGHTS` beside an ``adapter_model.bin``; torch reads tensors of it and nothing else."""
    code = (
        "import torch, safetensors.torch as s; s.save_file({k: v.clone() for k, v in "
        f"torch.load('adapter_model.bin', weights_only=True).items()}}, '{WEIGHTS}')"
    )
    return f'cd {shlex.quote(str(folder))} && python -c "{code}"'


def no_weights(folder: Path) -> str:
    """What to say of a folder without `WEIGHTS`."""
    if (folder / "adapter_model.bin").is_file():
        return f"{folder}: adapter_model.bin is a pickle, which is not read; convert it: {unpickle(folder)}"
    return f"{folder}: {WEIGHTS} is missing; give a directory that PEFT saved"
