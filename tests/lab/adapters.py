"""Small LoRA directories, their dense updates, and the command that compares them, in a process of its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.lab.homes import furnished
from tests.lab.living import ROOT as ROOT
from tests.lab.living import Done, python

RANK, ALPHA, WIDTH = 4, 8, 24


def adapter(folder: Path, seed: int, *, width: int = WIDTH) -> Path:
    """A LoRA directory as PEFT saves it: two layers, two projections, one initialisation of A for every seed."""
    folder.mkdir(parents=True)
    start, rng = np.random.default_rng(99), np.random.default_rng(seed)
    tensors = {}
    for module in (f"{layer}.self_attn.{name}" for layer in (0, 1) for name in ("q_proj", "v_proj")):
        key = f"base_model.model.model.layers.{module}.lora_"
        moved = start.standard_normal((RANK, width)) + 0.1 * rng.standard_normal((RANK, width))
        tensors[f"{key}A.weight"] = moved.astype(np.float32)
        tensors[f"{key}B.weight"] = rng.standard_normal((width, RANK)).astype(np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "base_model_name_or_path": "owner/base"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def dense(folder: Path) -> np.ndarray:
    """alpha / r * B A of every module as one vector: the definition."""
    stored = load_file(folder / "adapter_model.safetensors")
    tensors = {name: tensor.astype(np.float64) for name, tensor in stored.items()}
    starts = sorted(name for name in tensors if "lora_A" in name)
    return np.concatenate(
        [(ALPHA / RANK * tensors[name.replace("lora_A", "lora_B")] @ tensors[name]).ravel() for name in starts]
    )


def compare(*words: str, folder: Path, home: Path, program: tuple[str, ...] = ("-m", "flows.cli")) -> Done:
    """``colinear compare WORDS`` in ``folder``, with a state folder (its databases made) and without a network."""
    if "--plain" not in words and not home.exists():
        furnished(home)
    return python(*program, "compare", *words, home=home, cwd=folder, HF_HUB_OFFLINE="1")
