"""Which PEFT adapters vLLM serves as PEFT means them. What it would get wrong in silence is refused.

vLLM (0.30) reads rank, alpha and rsLoRA out of an ``adapter_config.json``, scales every module alike, and copies what
factors there are into its own buffers. So the configuration may say nothing else here, and the factors must fit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.core.errors import InputError

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The largest ranks that vLLM can be set to."""

WAY_OUT = "ask it with evaluation.engine=transformers"

PLAIN_INITS = (True, False, "gaussian", "eva", "orthogonal")
"""Initialisations that leave the base weights as they are."""

READ = {
    "r", "lora_alpha", "use_rslora", "lora_dropout", "target_modules", "exclude_modules", "layers_to_transform",
    "layers_pattern", "init_lora_weights", "eva_config", "task_type", "base_model_name_or_path", "revision",
    "inference_mode", "auto_mapping", "peft_version",
}  # fmt: skip
"""Fields that vLLM follows, that show in the files' tensors, or that only matter in training."""

REASONS = {
    "use_dora": "is DoRA, which vLLM cannot serve",
    "modules_to_save": "holds whole weights (modules_to_save), which vLLM cannot serve",
    "bias": "trains biases, which vLLM cannot serve",
    "lora_bias": "trains biases, which vLLM cannot serve",
    "rank_pattern": "has ranks of single modules (rank_pattern), whose updates vLLM would scale wrongly",
    "alpha_pattern": "has alphas of single modules (alpha_pattern), which vLLM would not apply",
}


def check_adapters(base: Path, adapters: Mapping[str, Path]) -> int:
    """The smallest of `RANKS` that holds all ``adapters`` (name -> PEFT directory) of ``base``.

    Raises `InputError` naming the adapter, the reason and the way out.
    """
    from peft import LoraConfig

    usual = json.loads(json.dumps(LoraConfig().to_dict()))
    weights = _shapes(base)
    largest = 1
    for name, folder in adapters.items():
        where = f"adapter {name} ({folder})"
        config = _config(folder, where)
        _check_config(config, usual, where)
        rank = config["r"]
        if rank > RANKS[-1]:
            raise InputError(f"{where} has rank {rank}, above vLLM's largest, {RANKS[-1]}; {WAY_OUT}")
        _check_factors(_shapes(folder), weights, rank, where)
        largest = max(largest, rank)
    return next(rank for rank in RANKS if rank >= largest)


def _config(folder: Path, where: str) -> dict[str, Any]:
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{where}: its adapter_config.json cannot be read: {error}") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA" or not isinstance(config.get("r"), int):
        raise InputError(f"{where} is no LoRA adapter of PEFT's; {WAY_OUT}")
    return config


def _check_config(config: Mapping[str, Any], usual: Mapping[str, Any], where: str) -> None:
    """PEFT's own defaults say what a field that is not used holds; one that PEFT here does not know must be empty."""
    for field, value in config.items():
        if field not in READ and (value or usual.get(field)) and value != usual.get(field):
            raise InputError(f"{where} {REASONS.get(field, f'sets {field}, which vLLM does not read')}; {WAY_OUT}")
    if (init := config.get("init_lora_weights", True)) not in PLAIN_INITS:
        raise InputError(f"{where} was initialised by {init}, which may change the base's weights; {WAY_OUT}")


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of every tensor in a folder's safetensors files, from their headers."""
    from safetensors import safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, "np") as tensors:
                shapes |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
        except Exception as error:  # safetensors has one exception for all that can be wrong with a file
            raise InputError(f"{file}: not a safetensors file that can be read: {error}") from error
    return shapes


def _check_factors(
    factors: Mapping[str, tuple[int, ...]], weights: Mapping[str, tuple[int, ...]], rank: int, where: str
) -> None:
    """Each pair A (r, in), B (out, r) has the shape of the base's weight (out, in)."""
    if not factors:
        raise InputError(f"{where} has no adapter_model.safetensors")
    for name, shape in factors.items():
        module, _, factor = name.removeprefix("base_model.model.").rpartition(".lora_")
        weight = weights.get(f"{module}.weight")
        if factor not in ("A.weight", "B.weight") or weight is None or len(weight) != 2:
            raise InputError(f"{where} has {name}, for which vLLM has no place in the base; {WAY_OUT}")
        if shape != ((rank, weight[1]) if factor == "A.weight" else (weight[0], rank)):
            raise InputError(f"{where} does not fit the base: {name} is {shape}, the weight {weight}, the rank {rank}")
