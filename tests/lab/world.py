"""A random little Qwen3 and made-up graded rollouts: enough for every trainer, nothing downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tasks.core.frames import GRADED, checked
from tasks.core.results import RunInfo
from tasks.core.sections import LoraSpec, TrainSpec
from tasks.methods import Method
from tests.lab.models import small_model

WORDS = [" the", " sum", " of", " and", " is", " so", " \\boxed{", "}", *(f" {digit}" for digit in range(10))]
PAD, BOS, EOS = 0, 1, 2
FIRST_WORD = 5
PROBLEMS, SAMPLES = 12, 4
LORA = LoraSpec(r=4, alpha=8.0)


def write_base(folder: Path) -> Path:
    """A Hugging Face directory: 2 layers of width 32 over 23 tokens, weights large enough that logits are not flat."""
    from tasks.models.tokenizer import build_tokenizer

    tokenizer = build_tokenizer(WORDS, max_length=64)
    special = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD, "max_position_embeddings": 64}
    small_model(5, vocab_size=len(tokenizer), tie_word_embeddings=True, **special).save_pretrained(folder)
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
        given: dict[str, Any] = {
            "base": self.base, "rollouts": self.rollouts, "method": method, "train": train, "lora": LORA, "info": run,
            "pad_token": None, "out": out,
        }  # fmt: skip
        return train_adapter(**{**given, **changes})


def read_adapter(folder: Path) -> dict[str, Any]:
    """Name -> tensor of ``folder/adapter``."""
    from safetensors.torch import load_file

    return load_file(folder / "adapter" / "adapter_model.safetensors")


def logged(folder: Path, metric: str) -> list[float]:
    """A metric of a training, step by step."""
    return pl.read_parquet(folder / "training.parquet").filter(metric=metric).sort("step")["value"].to_list()


def assert_near(found: Mapping[str, Any], expected: Mapping[str, Any], within: float = 1e-4, zero: float = 0.0) -> None:
    """Tensor by tensor: the norm of the difference over the norm; the order of float32 sums is no difference."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert float((found[name] - value).norm()) <= within * float(value.norm()) + zero, name


def token_logprobs(
    model: Any, prompt: list[int], completion: list[int], *, base: bool = False, grad: bool = False
) -> Any:
    """(T,) log-probabilities of one completion's tokens: full logits, no padding. ``base``: with the adapter off."""
    import torch

    with torch.set_grad_enabled(grad), model.disable_adapter() if base else nullcontext():
        logits = model(input_ids=torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits.double(), dim=-1).gather(1, torch.tensor(completion)[:, None])[:, 0]
