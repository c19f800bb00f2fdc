"""A real model on a CPU: a plain training loop, our trainer and our decoding, beside what the processor can multiply.

    python -m tests.benchmarks.real_model MODEL_DIR [--threads 1] [--steps 2] [--batch 8] [--methods sft,dpo]
        [--answers 128] [--new-tokens 128] [--parts naive,train,decode]

MODEL_DIR: a Hugging Face folder with weights in bfloat16. Each part runs in a process of its own, as a study's workers
do, and tells the most memory that it held. What is measured:

- Peak: products of 2,048 x 2,048 matrices in bfloat16, the best of ten, before and after each part in its process.
- Naive: PEFT's LoRA (r = 16 on q, k, v, o), weights and autocast in bfloat16, 4 x 256 tokens a pass, whole logits.
- Ours: `build_trainer` at the settings of a study, rows of random tokens with log-normal lengths (median 150), pairs
  for DPO (whose reference runs beside it); the first step warms up.
- Share of the peak: 4 operations a frozen entry of the layers and token, 4 an entry of the head and token that is
  scored (all of the naive loop's), LoRA's and attention's left out: what is told is a lower bound.
- Decoding: greedy answers to made-up word problems, with the model's own end; tokens up to that end only.

Seconds are those of the process on its threads (CPU time / threads) where there is one thread, so that others on the
machine do not count; with several threads they are the clock's. The machine's load stands beside each figure.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tasks.core.frames import GRADED, checked
from tasks.core.results import RunInfo
from tasks.core.sections import LoraSpec, TrainSpec
from tasks.methods import Methods
from tasks.workers.devices import KEEP_MEMORY, describe_machine
from tasks.workers.worker import peak_memory

INFO = RunInfo("bench", "bench", seed=0, data_seed=0, lr=5e-5)
LORA = LoraSpec(r=16, alpha=32.0)


def now() -> float:
    """Seconds: see the module's text."""
    import torch

    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def matmul_peak() -> float:
    """FLOP/s."""
    import torch

    a = torch.randn(2048, 2048).bfloat16()
    best = float("inf")
    for _ in range(10):
        began = now()
        a @ a
        best = min(best, now() - began)
    return 2 * 2048**3 / best


def make_rollouts(vocabulary: int, rows: int) -> pl.DataFrame:
    """GRADED: prompts of about 100 tokens, completions with log-normal lengths, half of them right."""
    rng = np.random.default_rng(0)
    made: list[dict[str, Any]] = []
    for problem in range(-(-rows // 4)):
        prompt = rng.integers(1000, vocabulary - 1000, int(rng.integers(60, 140))).tolist()
        for sample in range(4):
            length = int(np.clip(rng.lognormal(np.log(150), 0.5), 20, 600))
            completion = rng.integers(1000, vocabulary - 1000, length).tolist()
            made.append(
                {
                    **dict.fromkeys(GRADED), "problem_id": f"p{problem}", "rollout_id": sample, "prompt": "q",
                    "completion": "a", "prompt_ids": prompt, "completion_ids": completion, "logprobs": [-1.0] * length,
                    "finish_reason": "stop", "seed": 0, "answer": "1", "reward": float(sample % 2), "grader": "given",
                }
            )  # fmt: skip
    return checked(pl.DataFrame(made, schema=GRADED), GRADED, "benchmark rollouts")


def useful(model: Any, tokens: float, scored: float) -> float:
    """FLOP of forward and backward passes: see the module's text."""
    head = model.get_output_embeddings().weight
    layers = sum(p.numel() for name, p in model.named_parameters() if p.ndim == 2 and "lora" not in name)
    layers -= head.numel() + (
        0 if model.get_input_embeddings().weight is head else model.get_input_embeddings().weight.numel()
    )
    return 4.0 * (layers * tokens + head.numel() * scored)


def naive(base: Path, given: argparse.Namespace) -> dict[str, float]:
    """The plain loop."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.bfloat16, attn_implementation="sdpa")
    model = get_peft_model(model, LoraConfig(r=LORA.r, lora_alpha=LORA.alpha, target_modules=list(LORA.targets)))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=INFO.lr)
    rng = torch.Generator().manual_seed(0)
    seconds, tokens = [], 4 * 256
    for _ in range(given.steps):
        ids_BT = torch.randint(1000, model.config.vocab_size - 1000, (4, 256), generator=rng)
        began = now()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids_BT, labels=ids_BT, use_cache=False).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        seconds.append(now() - began)
    best = min(seconds[1:] or seconds)
    return {"tokens_s": tokens / best, "flops": useful(model.get_base_model(), tokens, tokens) / best}


def train(base: Path, given: argparse.Namespace, name: str) -> dict[str, float]:
    """Our trainer."""
    from transformers import AutoConfig

    from tasks.training.build import build_trainer
    from tasks.training.examples import build_dataset

    vocabulary = AutoConfig.from_pretrained(str(base)).get_text_config().vocab_size
    graded = make_rollouts(vocabulary, given.steps * given.batch * 2)
    method = getattr(Methods(), name)
    settings = TrainSpec(lr=INFO.lr, steps=given.steps, batch_size=given.batch, precision=given.precision)
    data = build_dataset(method.select(graded), method.kind, graded.height, given.steps * given.batch, 0)
    with tempfile.TemporaryDirectory() as folder:
        trainer, collator = build_trainer(base, data, method, settings, LORA, INFO, None, Path(folder))
        seconds = _timed(trainer)
        trainer.train()
    scored = [0] * given.steps
    for place in range(given.steps * given.batch):
        one = data[place]
        scored[place // given.batch] += (
            len(one["chosen_ids"]) + len(one["rejected_ids"])
            if method.kind == "pairs"
            else sum(x != -100 for x in one["labels"])
        )
    model = trainer.model.get_base_model()
    steps = range(1, given.steps) if given.steps > 1 else range(1)
    tokens, took = sum(collator.tokens_by_batch[i] for i in steps), sum(seconds[i] for i in steps)
    operations = sum(useful(model, collator.tokens_by_batch[i], scored[i]) for i in steps)
    if method.against_base:  # the reference's forward pass is half of a training pass's operations
        operations *= 1.5
    print(trainer.limits, trainer.notes, file=sys.stderr)
    return {"tokens_s": tokens / took, "flops": operations / took, "pass_tokens": trainer.limits.tokens or 0}


def _timed(trainer: Any) -> list[float]:
    from transformers import TrainerCallback

    seconds: list[float] = []

    class Clock(TrainerCallback):
        """Seconds of every step."""

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.began = now()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            seconds.append(now() - self.began)

    trainer.add_callback(Clock())
    return seconds


def decode(base: Path, given: argparse.Namespace) -> dict[str, float]:
    """Greedy answers."""
    from tasks.models.generate import generate
    from tasks.models.load import load_adapters
    from tasks.models.turn import open_turn

    turn = open_turn(base, None, None)
    names = ("Ann", "Ben", "Cora", "Dan", "Eva", "Finn", "Gina", "Hugo")
    questions = [
        f"{names[i % 8]} has {3 + i % 17} boxes with {2 + i % 11} pens each and gives away {1 + i % 5} pens. "
        "How many pens are left? Reason step by step and put the answer in \\boxed{}."
        for i in range(given.answers)
    ]
    model = load_adapters(base, {})
    prompts = [turn.prompt(question) for question in questions]
    began = now()
    answers = generate(
        model, prompts, end_ids=turn.end_ids, pad_id=turn.tokenizer.pad_token_id, max_new_tokens=given.new_tokens,
        batch_size=given.at_once,
    )  # fmt: skip
    took = now() - began
    tokens = sum(len(answer.ids) for answer in answers)
    print(turn.text(answers[0].ids), file=sys.stderr)
    return {"tokens_s": tokens / took, "tokens": tokens, "ended": sum(a.finish_reason == "stop" for a in answers)}


def part(base: Path, given: argparse.Namespace, name: str) -> dict[str, float]:
    """One part, in this process."""
    import torch

    torch.set_num_threads(given.threads)
    before = matmul_peak()
    work: Callable[..., dict[str, float]] = {"naive": naive, "decode": decode}.get(name, train)
    found = work(base, given) if name in ("naive", "decode") else train(base, given, name)
    return found | {"peak": max(before, matmul_peak()), "memory": peak_memory(), "load": os.getloadavg()[0]}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Training and decoding with a real model on a CPU.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2, help="the first warms up")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--methods", default="sft,dpo")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--answers", type=int, default=128)
    parser.add_argument("--at-once", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--parts", default="naive,train,decode")
    parser.add_argument("--part", default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        print("RESULT " + json.dumps(part(given.model, given, given.part)))
        return
    names = [
        one for name in given.parts.split(",") for one in (given.methods.split(",") if name == "train" else [name])
    ]
    threads = {name: str(given.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    print(f"{given.model.name} on {given.threads} thread(s) of {describe_machine()}")
    print("part | tokens/s | share of the bfloat16 peak | peak GFLOP/s | memory GiB | load")
    for name in names:
        words = [sys.executable, "-m", "tests.benchmarks.real_model", *sys.argv[1:], "--part", name]
        done = subprocess.run(words, env={**os.environ, **KEEP_MEMORY, **threads}, stdout=subprocess.PIPE, text=True)
        lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        if not lines:
            print(f"{name} | failed, exit code {done.returncode}")
            continue
        found = json.loads(lines[0].removeprefix("RESULT "))
        share = f"{found['flops'] / found['peak']:.0%}" if "flops" in found else "-"
        print(
            f"{name} | {found['tokens_s']:,.0f} | {share} | {found['peak'] / 1e9:,.0f} | "
            f"{found['memory'] / 2**30:.2f} | {found['load']:.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
