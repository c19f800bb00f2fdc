"""LoRA as MLX, kohya's scripts and diffusers save it, written once as PEFT would have saved it."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.core.errors import InputError
from tasks.core.small_files import parse, read_object
from tasks.geometry.adapters.adapter import WEIGHTS
from tasks.geometry.adapters.peft_config import CONFIG
from tasks.geometry.adapters.tensors import Raw, TensorFile, write_tensors

MLX_WEIGHTS = "adapters.safetensors"
SCALING = "colinear_scaling"
"""The field of a written configuration that says where the scale was found."""

_PEFT = "base_model.model."

_KEYS = (
    re.compile(r"(base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>A|B)(\.default)?\.weight"),
    re.compile(r"(?P<module>.+)[._]lora[._](?P<side>down|up)\.weight"),
    re.compile(r"(?P<module>.+)\.lora_(?P<side>a|b)"),
)
_SIDE = {"A": "A", "B": "B", "down": "A", "up": "B", "a": "A", "b": "B"}


def as_peft(place: Path, scratch: Path) -> Path | None:
    """A PEFT folder below ``scratch`` with the LoRA at ``place``; None where that is PEFT's own, or no LoRA.

    ``place`` is a folder of MLX (``adapters.safetensors`` with a configuration that has no peft_type), a folder without
    any configuration that holds one safetensors file (diffusers), or such a file (kohya's scripts). Names with
    ``lora_A``, ``lora_down``, ``lora.down`` and ``lora_a`` are read. A module's scale is, in this order: MLX's
    ``scale``; its own tensor ``alpha`` over its rank; the file's metadata; else 1, which is alpha = rank. The folder's
    configuration says which (`SCALING`). MLX stores ``lora_a`` as (in, r) and ``lora_b`` as (r, out): they
    are turned. Values are copied bit by bit.

    Raises `InputError`: MLX's DoRA or whole weights, a damaged file, a scale that is no positive number.
    """
    raw: dict[str, Any] = {}
    if (place / CONFIG).is_file():
        try:
            raw = read_object(place / CONFIG)
        except (OSError, ValueError):
            return None  # for the reader of PEFT's folders to say
        if "peft_type" in raw or not (place / MLX_WEIGHTS).is_file():
            return None
        file = place / MLX_WEIGHTS
    elif place.is_file():
        file = place
    else:
        files = sorted(place.glob("*.safetensors")) if not (place / "config.json").is_file() else []
        if len(files) != 1:
            return None
        file = files[0]
    tensors = TensorFile(file)
    found = {key: match for key in tensors.shapes for match in [_match(key)] if match}
    if not found:
        if place.is_file():
            raise InputError(f"{file}: no LoRA factors in it (lora_A, lora_down, lora_a); give an adapter's file")
        return None
    return _write(tensors, found, raw, scratch)


def _match(key: str) -> tuple[str, str, bool] | None:
    """Of a factor's key the module, the side (A or B), and whether it is stored the other way round."""
    for pattern in _KEYS:
        if match := pattern.fullmatch(key):
            return match["module"], _SIDE[match["side"]], match["side"] in "ab"
    return None


def _write(
    tensors: TensorFile, found: Mapping[str, tuple[str, str, bool]], raw: Mapping[str, Any], scratch: Path
) -> Path:
    parts: dict[str, Raw] = {}
    ranks: dict[str, int] = {}
    for key, (module, side, turned) in found.items():
        one = tensors.raw(key).turned if turned else tensors.raw(key)
        parts[f"{_PEFT}{module}.lora_{side}.weight"] = one
        if side == "A" and one.shape:
            ranks[module] = one.shape[0]
    others = [key for key in tensors.shapes if key not in found and not key.endswith(".alpha")]
    parts |= {f"{_PEFT}{key.removeprefix(_PEFT)}": tensors.raw(key) for key in others}
    alphas, said = _alphas(raw, tensors, ranks)
    first, alpha = next(iter(ranks.values()), 1), next(iter(alphas.values()), 1.0)
    named = raw.get("model")
    config = {
        "peft_type": "LORA",
        "r": first,
        "lora_alpha": alpha,
        "rank_pattern": {f"^{re.escape(name)}": rank for name, rank in ranks.items() if rank != first},
        "alpha_pattern": {f"^{re.escape(name)}": own for name, own in alphas.items() if own != alpha},
        "base_model_name_or_path": named if isinstance(named, str) else None,
        SCALING: said,
    }
    scratch.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="adapter-", dir=scratch))
    (folder / CONFIG).write_text(json.dumps(config, indent=2))
    write_tensors(folder / WEIGHTS, parts)
    return folder


def _alphas(raw: Mapping[str, Any], tensors: TensorFile, ranks: Mapping[str, int]) -> tuple[dict[str, float], str]:
    """Module -> alpha, whose ratio to its rank is its scale; and where that was found."""
    if raw:
        scale = _mlx_scale(raw, tensors.path.with_name(CONFIG))
        return {name: scale * rank for name, rank in ranks.items()}, f"scale {scale:g} of MLX's configuration"
    own = {
        name: float(tensors.read(f"{name}.alpha").reshape(-1)[0]) for name in ranks if f"{name}.alpha" in tensors.shapes
    }
    told = _told(tensors.metadata)
    if own:
        rest = "" if len(own) == len(ranks) else f"; {len(ranks) - len(own)} modules have none: theirs is their rank"
        return {name: own.get(name, float(rank)) for name, rank in ranks.items()}, f"alpha of each module{rest}"
    if told is not None:
        return dict.fromkeys(ranks, told), f"alpha {told:g} of the file's metadata"
    return {name: float(rank) for name, rank in ranks.items()}, "alpha is not stored: taken as the rank (scale 1)"


def _mlx_scale(raw: Mapping[str, Any], config: Path) -> float:
    kind, parameters = raw.get("fine_tune_type", "lora"), raw.get("lora_parameters")
    if kind != "lora":
        raise InputError(f"{config}: fine_tune_type is {kind!r}; of MLX's adapters LoRA is read")
    scale = parameters.get("scale") if isinstance(parameters, dict) else None
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < math.inf:
        raise InputError(f"{config}: lora_parameters.scale is {scale!r}; it must be a positive number")
    return float(scale)


def _told(metadata: Mapping[str, str]) -> float | None:
    """The alpha in a file's metadata: kohya's own field, or one in diffusers' ``lora_adapter_metadata``, an object."""
    try:
        inner = parse(metadata.get("lora_adapter_metadata", "{}"))
    except ValueError:
        inner = {}
    fields = {**metadata, **(inner if isinstance(inner, dict) else {})}
    alphas = [value for name, value in fields.items() if name.rpartition(".")[2] in ("ss_network_alpha", "lora_alpha")]
    for value in alphas:
        try:
            alpha = float(value)
        except (TypeError, ValueError):
            continue
        if 0 < alpha < math.inf and not isinstance(value, bool):
            return alpha
    return None
