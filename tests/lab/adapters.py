"""Small LoRA directories, their dense updates, and the command that compares them, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

ROOT = Path(__file__).parents[2]
RANK, ALPHA, WIDTH = 4, 8, 24

Done = subprocess.CompletedProcess[str]


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
    """``colinear compare WORDS`` in ``folder``, with a state folder and without a network."""
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "COLINEAR_HOME": str(home), "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME"):
        environment.pop(name, None)
    return subprocess.run(
        [sys.executable, *program, "compare", *words], cwd=folder, env=environment, text=True, capture_output=True,
        timeout=180, check=False,
    )  # fmt: skip
