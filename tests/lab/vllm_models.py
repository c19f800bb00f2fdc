"""A small Qwen3 that vLLM can compute on a CPU (heads of 32 dimensions), PEFT adapters of it, and where vLLM is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import InputError
from tasks.engines.interface import Completion, Engine, Request, Sampling
from tasks.engines.vllm_installation import interpreter

CONTEXT = 128
FIRST_WORD = 5
"""Ids before it are special tokens and the newline."""
WORDS = 100


def missing() -> str | None:
    """Why the tests of the engine itself cannot run here; None where they can."""
    try:
        interpreter()
    except InputError as error:
        return str(error)
    return None


needs_vllm = pytest.mark.skipif(missing() is not None, reason=str(missing()))


def make_base(folder: Path, **shape: int) -> Path:
    """Random weights, float32; answers of a few to many tokens."""
    from tasks.core.sections import TinySpec
    from tasks.models.tiny.network import build_network
    from tasks.models.tokenizer import build_tokenizer

    words = [f" w{chr(97 + i // 10)}{chr(97 + i % 10)}" for i in range(WORDS)]
    tokenizer = build_tokenizer(words, max_length=CONTEXT)
    spec = TinySpec(**{"hidden": 64, "layers": 2, "heads": 2, "kv_heads": 1, "intermediate": 128, **shape})
    build_network(spec, tokenizer, CONTEXT).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_adapter(base: Path, folder: Path, seed: int, **config: Any) -> Path:
    """A PEFT adapter with an update large enough to change most answers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"], **config}
    torch.manual_seed(seed)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), LoraConfig(task_type="CAUSAL_LM", **settings)
    )
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.3)
    model.save_pretrained(folder)
    return folder


def prompt(number: int) -> tuple[int, ...]:
    """<bos>, one to three words, newline."""
    words = [FIRST_WORD + (7 * number + 13 * place) % WORDS for place in range(1 + number % 3)]
    return (1, *words, 4)


def ask(engine: Engine, requests: Sequence[Request], sampling: Sampling) -> dict[str, Completion]:
    """Every request's completion; none is delivered twice."""
    found: dict[str, Completion] = {}

    def deliver(request: Request, completion: Completion) -> None:
        assert request.id not in found
        found[request.id] = completion

    engine.complete(requests, sampling, deliver)
    assert set(found) == {request.id for request in requests}
    return found
