"""A random little Qwen3 and made-up graded rollouts: enough for every trainer, nothing downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tasks.core.frames import GRADED, checked
from tasks.core.results import RunInfo
from tasks.core.sections import LoraSpec, TrainSpec
from tasks.methods import Method

WORDS = [" the", " sum", " of", " and", " is", " so", " \\boxed{", "}", *(f" {digit}" for digit in range(10))]
PAD, BOS, EOS = 0, 1, 2
FIRST_WORD = 5
PROBLEMS, SAMPLES = 12, 4
LORA = LoraSpec(r=4, alpha=8.0)


def write_base(folder: Path) -> Path:
    """A Hugging Face directory: 2 layers of width 32 over 23 tokens, weights large enough that logits are not flat."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from tasks.models.tokenizer import build_tokenizer

    tokenizer = build_tokenizer(WORDS, max_length=64)
    torch.manual_seed(5)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.15,
        tie_word_embeddings=True,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_graded(seed: int = 0) -> pl.DataFrame:
    """GRADED: 12 problems x 4 rollouts of 3-9 tokens; rewards random, but 1 in the first group and 0 in the second."""
    rng = np.random.default_rng(seed)
    last = FIRST_WORD + len(WORDS)
    rows = []
    for problem in range(PROBLEMS):
        prompt = [BOS, *rng.integers(FIRST_WORD, last, rng.integers(3, 8)).tolist(), 4]
        for sample in range(SAMPLES):
            completion = [*rng.integers(FIRST_WORD, last, rng.integers(2, 9)).tolist(), EOS]
            reward = {0: 1.0, 1: 0.0}.get(problem, float(rng.random() < 0.6))
            rows.append(
                {
                    **dict.fromkeys(GRADED),
                    "problem_id": f"p{problem:02d}",
                    "rollout_id": sample,
                    "prompt": f"question {problem}",
                    "completion": f"answer {problem} {sample}",
                    "prompt_ids": prompt,
                    "completion_ids": completion,
                    "logprobs": rng.uniform(-4.0, -0.1, len(completion)).tolist(),
                    "finish_reason": "stop",
                    "seed": 0,
                    "answer": "1",
                    "reward": reward,
                    "grader": "given",
                }
            )
    return checked(pl.DataFrame(rows, schema=GRADED), GRADED, "made-up rollouts")


@dataclass(frozen=True)
class World:
    """Where the base and the rollouts are, and how to train on them."""

    base: Path
    rollouts: Path

    def train(self, out: Path, method: Method, run: RunInfo, train: TrainSpec, **changes: Any) -> dict[str, Any]:
        """`train_adapter` into ``out`` (made here)."""
        from tasks.training.train import train_adapter

        out.mkdir(parents=True)
        arguments: dict[str, Any] = {
            "base": self.base,
            "rollouts": self.rollouts,
            "method": method,
            "train": train,
            "lora": LORA,
            "info": run,
            "pad_token": None,
            "out": out,
        }
        return train_adapter(**{**arguments, **changes})


def read_adapter(folder: Path) -> dict[str, Any]:
    """Name -> tensor of ``folder/adapter``."""
    from safetensors.torch import load_file

    return load_file(folder / "adapter" / "adapter_model.safetensors")
