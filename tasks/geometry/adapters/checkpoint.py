"""A Hugging Face model directory opened without reading its weights, and what a full fine-tune changed of its base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tasks.core.errors import InputError
from tasks.core.places import core
from tasks.core.small_files import read_object
from tasks.geometry.adapters.tensors import TensorFile, check_gathered
from tasks.geometry.delta import Array
from tasks.models.external import as_safetensors

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

_CONV1D_MODELS = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp_decoder"})
_CONV1D = frozenset({"c_attn", "c_proj", "c_fc", "q_attn"})
"""Modules that are transformers' Conv1D in these models: stored (in, out). A square one does not show it."""

_PACKED = (".qweight", ".weight.absmax", ".weight_packed", ".weight_scale_inv", ".weight_scale", "_blocks", ".SCB")
"""Ends of names that quantised weights are stored under: GPTQ and AWQ, bitsandbytes, compressed-tensors, fp8, mxfp4."""

_HEAD = "lm_head.weight"
_EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings", "tok_embeddings")


class Checkpoint:
    """A model directory: ``config.json`` with ``model.safetensors``, or with the shards that its index names.

    Raises `InputError` in one line naming the file: no configuration, no safetensors (pickles are not read), a damaged
    index, a missing shard, a tensor that the index promises and its shard does not hold, quantised weights, weights
    that DeepSpeed ZeRO-3 left empty.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.config = _json(self.folder / CONFIG, "give a model directory that transformers saved")
        self.files: dict[str, TensorFile] = _tensors(self.folder)
        self.shapes: dict[str, tuple[int, ...]] = {name: file.shapes[name] for name, file in self.files.items()}
        self._refuse_quantised()
        check_gathered(self.shapes, self.folder)
        self._by_core: dict[str, list[str]] = {}
        for name in self.shapes:
            self._by_core.setdefault(core(name), []).append(name)

    def _refuse_quantised(self) -> None:
        said = self.config.get("quantization_config")
        method = said.get("quant_method") if isinstance(said, dict) else None
        packed = [name for name in self.shapes if name.endswith(_PACKED)]
        stored = [name for name, file in self.files.items() if method and not file.is_floating(name)]
        if packed or stored:
            kind = method or "by the names of its tensors"
            raise InputError(
                f"{self.folder}: its weights are quantised ({kind}; such as {(packed or stored)[0]}): give the "
                "model as it was before quantising, which an update is added to"
            )

    def read(self, name: str) -> Array:
        """One tensor as it is stored, in float64; `InputError` where there is none of that name."""
        if name not in self.files:
            raise InputError(f"{self.folder}: no tensor {name} in it")
        return self.files[name].read(name)

    def find(self, name: str) -> str | None:
        """The tensor ``name``, or the only one that has this name but for leading "model.", "language_model.", ...

        Where the configuration ties the output layer to the input embedding and only one is stored, the name of
        either finds it. None where there is no such tensor; `InputError` naming all where there are several.
        """
        if name in self.shapes:
            return name
        found = self._by_core.get(core(name), [])
        if len(found) > 1:
            raise InputError(f"{self.folder}: {name} could be {' or '.join(sorted(found))}; rename one of them")
        if found:
            return found[0]
        return self._embedding() if core(name) == _HEAD and self.tied else None

    @property
    def tied(self) -> bool:
        """Whether the output layer is the input embedding.

        What ``tie_word_embeddings`` says; where it is left out (its default differs between models), whether the
        output layer is not stored.
        """
        text = self.config.get("text_config")
        inner = text.get("tie_word_embeddings") if isinstance(text, dict) else None
        value = self.config.get("tie_word_embeddings", inner)
        return _HEAD not in self._by_core if value is None else bool(value)

    def weight_of(self, module: str) -> str:
        """``model.layers.3.self_attn.q_proj -> model.layers.3.self_attn.q_proj.weight``, by `find`'s rules.

        Raises `InputError` naming the module and the directory where there is no such tensor, or several.
        """
        name = self.find(f"{module}.weight")
        if name is None:
            raise InputError(
                f"module {module} has no weight in {self.folder} (no tensor {module}.weight, nor under another "
                "prefix); give the base model that the adapter was trained on"
            )
        return name

    def shape_of(self, module: str) -> tuple[int, int]:
        """(out, in) of a module's weight, Conv1D turned; `InputError` where it is not a matrix."""
        name = self.weight_of(module)
        shape = self.shapes[name]
        if len(shape) != 2:
            raise InputError(f"{self.folder}: tensor {name} is {shape}; only matrices are compared")
        return (shape[1], shape[0]) if self._is_conv1d(module) else (shape[0], shape[1])

    def read_weight(self, module: str, shape: tuple[int, int], *, embedding: bool = False) -> Array:
        """(out, in) float64 weight of ``module``, which must be of ``shape``.

        Conv1D (GPT-2) is stored (in, out) and is transposed; so is an ``embedding``, which LoRA takes as (hidden,
        vocabulary), and any other matrix where only that fits.

        Raises `InputError`: no such tensor, another shape, entries that are NaN or infinite (with their share).
        """
        name, (out, n_in) = self.weight_of(module), shape
        stored, turned = self.shapes[name], embedding or self._is_conv1d(module)
        if stored not in ((out, n_in), (n_in, out)) or (turned and stored != (n_in, out)):
            raise InputError(
                f"module {module} is {(out, n_in)} in the update and {stored} in {self.folder} ({name}); give the base "
                "model that the adapter was trained on"
            )
        weight = self.read(name)
        if bad := int(np.count_nonzero(~np.isfinite(weight))):
            raise InputError(f"{self.folder}: {bad} of {weight.size} entries of {name} are NaN or infinite")
        return weight.T if turned or stored != (out, n_in) else weight

    def kind_of(self, module: str) -> str:
        """How a module's weight is stored, in safetensors' names."""
        name = self.weight_of(module)
        return self.files[name].entries[name].dtype

    def _is_conv1d(self, module: str) -> bool:
        return self.config.get("model_type") in _CONV1D_MODELS and module.rsplit(".", 1)[-1] in _CONV1D

    def _embedding(self) -> str | None:
        found = [n for n in self.shapes if n.endswith(".weight") and n.split(".")[-2] in _EMBEDDINGS]
        return found[0] if len(found) == 1 else None


def changed(base: Checkpoint, other: Checkpoint) -> tuple[list[str], list[str]]:
    """What a full fine-tune (or a merged adapter) ``other`` changed of ``base``: (modules, rest), both sorted.

    ``modules``: matrices whose values differ, without ".weight", named as in ``other``; `Checkpoint.read_weight` of
    either side takes these names. Values count, not bytes: a float32 copy of a bfloat16 weight is unchanged.
    ``rest``: everything else that differs and is reported, not compared: biases, norms, three-dimensional experts,
    embeddings and output layers of vocabularies of two sizes, and tensors that only one side has. An output layer that
    one side ties to its embedding is no such tensor: it is compared with that embedding; where both sides tie, it is
    the embedding and is not looked at twice.

    Memory: one tensor of each side in float64 where their bytes differ.

    Raises `InputError` naming both directories: no tensor in common, or one of another shape (another base model).
    """
    modules: list[str] = []
    rest: list[str] = []
    matched: set[str] = set()
    for name in other.shapes:
        if core(name) == _HEAD and base.tied and other.tied:
            continue
        partner = base.find(name)
        if partner is None:
            rest.append(name)
            continue
        matched.add(partner)
        if _other_vocabulary(base.shapes[partner], other.shapes[name], name):
            rest.append(name)
        elif not _equal(base, partner, other, name):
            plain = len(other.shapes[name]) == 2 and name.endswith(".weight")
            (modules if plain else rest).append(name.removesuffix(".weight") if plain else name)
    if not matched:
        raise InputError(f"{other.folder} and {base.folder} share no tensor: give the model that it was trained from")
    for name in base.shapes.keys() - matched:
        if core(name) != _HEAD or not other.tied:
            rest.append(name)
        elif not base.tied and (partner := other.find(name)):
            if _other_vocabulary(base.shapes[name], other.shapes[partner], name):
                rest.append(name)
            elif not _equal(base, name, other, partner):
                modules.append(name.removesuffix(".weight"))
    return sorted(modules), sorted(rest)


def _other_vocabulary(base: tuple[int, ...], other: tuple[int, ...], name: str) -> bool:
    """Whether two embeddings, or output layers, have other numbers of rows (tokens): then neither has an update."""
    parts = name.split(".")
    token = core(name) == _HEAD or (len(parts) > 1 and parts[-2] in _EMBEDDINGS)
    return token and len(base) == len(other) == 2 and base[0] != other[0] and base[1] == other[1]


def _equal(base: Checkpoint, name: str, other: Checkpoint, other_name: str) -> bool:
    if base.shapes[name] != other.shapes[other_name]:
        raise InputError(
            f"{other_name} is {other.shapes[other_name]} in {other.folder} and {base.shapes[name]} in {base.folder}: "
            "give the model that it was trained from"
        )
    file, other_file = base.files[name], other.files[other_name]
    return file.same(name, other_file, other_name) or bool(np.array_equal(base.read(name), other.read(other_name)))


def _tensors(folder: Path) -> dict[str, TensorFile]:
    """Tensor name -> the opened file that holds it."""
    if (folder / SINGLE).is_file():
        file = TensorFile(folder / SINGLE)
        return dict.fromkeys(file.shapes, file)
    if not (folder / INDEX).is_file():
        if any(folder.glob("pytorch_model*.bin*")):
            raise InputError(f"{folder}: holds pickled weights only, which are not read; {as_safetensors(folder)}")
        raise InputError(f"{folder}: has no model.safetensors; give a directory that transformers saved")
    index = _json(folder / INDEX, "copy it again").get("weight_map")
    if not isinstance(index, dict) or not index or not all(isinstance(shard, str) for shard in index.values()):
        raise InputError(f"{folder / INDEX}: it has no weight_map of tensor names and files; copy it again")
    shards = {}
    for shard in sorted(set(index.values())):
        if Path(shard).name != shard:
            raise InputError(f"{folder / INDEX}: shard {shard!r} is not a file beside it; copy it again")
        if not (folder / shard).is_file():
            raise InputError(f"{folder / shard} is missing, which {INDEX} names; copy it again")
        shards[shard] = TensorFile(folder / shard)
    for name, shard in index.items():
        if name not in shards[shard].shapes:
            raise InputError(f"{folder / shard}: tensor {name} is not in it, though {INDEX} says so; copy both again")
    return {name: shards[shard] for name, shard in index.items()}


def _json(file: Path, remedy: str) -> dict[str, Any]:
    if not file.is_file():
        raise InputError(f"{file} is missing; {remedy}")
    try:
        return read_object(file)
    except (ValueError, OSError) as error:
        raise InputError(f"{file}: not valid JSON ({error}); {remedy}") from error
