"""Training at the shapes of Qwen3, random weights, on whatever device is here: ours beside TRL's trainers as they come.

    python -m tests.benchmarks.train_scale [--shape 4b|1.7b|.6b|small] [--methods sft,dpo] [--steps N] [--json FILE]

Per method, on the same rows or pairs in the same order: useful tokens a second (padding not counted), their share of
the device's peak, and peak memory. In one process, one after the other, a warm-up step first.

- Rows: short prompts, completions with log-normal lengths (median, sigma and cap by shape), so a batch has a real
  spread.
- Seconds: the clock's on a GPU, its work waited for; on a CPU those of the process, so that others on the machine do
  not count (start it with OMP_NUM_THREADS=1).
- Peak: the best of repeated square matrix products, bfloat16 on a GPU and float32 on a CPU, in the same run.
- FLOPs of a step: a layer's frozen matrices cost 2 a token and weight forward and 2 for the gradient of their inputs,
  LoRA's own 6, the head 4 for completion tokens only; attention 4 x heads x head_dim x T / 2 a token of a sequence of T
  forward, twice that backward. What checkpointing computes again is not counted, nor the reference's pass of DPO, nor
  padding: waste lowers the share.
- Stock: SFTTrainer and DPOTrainer with TRL's own defaults (gradient checkpointing, padding, the reference beside the
  policy; the arithmetic is ours), at the largest micro-batch (halved from the batch) that fits. Row methods other than
  SFT and DFT have no stock trainer; they are held against SFT's.
- Memory: the allocator's peak on a GPU; on a CPU the process's growth, sampled every 5 ms, its base's weights included.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from tasks.core.frames import GRADED, checked
from tasks.core.results import RunInfo
from tasks.core.sections import LoraSpec, TrainSpec
from tasks.methods import Method, Methods
from tasks.methods.dpo import Dpo
from tasks.models.load import arithmetic, device, load_model
from tasks.training.build import build_trainer
from tasks.training.examples import build_dataset
from tasks.training.reference import REFERENCE, rows_of, write_reference
from tasks.training.trainers import PairCollator, RowCollator, TokenizedDPOTrainer
from tasks.workers.devices import describe_machine

WORDS = 64
INFO = RunInfo("bench", "bench", seed=0, data_seed=0, lr=5e-6)


@dataclass(frozen=True)
class Shape:
    """A Qwen3 and the work that it is given."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool
    batch: int
    median: int
    sigma: float
    cap: int
    bytes_needed: float


SHAPES = {
    "4b": Shape(2560, 36, 32, 8, 128, 9728, 151_936, True, 32, 800, 0.7, 4096, 40e9),
    "1.7b": Shape(2048, 28, 16, 8, 128, 6144, 151_936, True, 32, 800, 0.7, 4096, 20e9),
    ".6b": Shape(1024, 28, 16, 8, 128, 3072, 151_936, True, 32, 800, 0.7, 4096, 10e9),
    "small": Shape(256, 4, 8, 2, 32, 768, 8192, True, 16, 60, 0.7, 300, 0.0),
}


def write_base(shape: Shape, folder: Path) -> Path:
    """A Hugging Face directory with random weights; bfloat16 on disk on a GPU."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from tasks.models.tokenizer import build_tokenizer

    tokenizer = build_tokenizer([f" w{i}" for i in range(WORDS)], max_length=2 * shape.cap)
    config = Qwen3Config(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, head_dim=shape.head_dim,
        intermediate_size=shape.intermediate, tie_word_embeddings=shape.tied, max_position_embeddings=40_960,
        dtype="bfloat16" if device() == "cuda" else "float32",
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device()):
        model = Qwen3ForCausalLM(config)
    model.to(torch.bfloat16 if device() == "cuda" else torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    del model
    _free()
    return folder


def make_rollouts(shape: Shape, problems: int, k: int = 4) -> pl.DataFrame:
    """GRADED: log-normal completion lengths, half of them right."""
    rng = np.random.default_rng(0)
    rows = []
    for problem in range(problems):
        prompt = rng.integers(10, WORDS, max(8, int(rng.normal(shape.median / 8, shape.median / 40)))).tolist()
        for sample in range(k):
            length = int(np.clip(rng.lognormal(np.log(shape.median), shape.sigma), 4, shape.cap))
            completion = rng.integers(10, WORDS, length).tolist()
            rows.append(
                {
                    **dict.fromkeys(GRADED), "problem_id": f"p{problem}", "rollout_id": sample, "prompt": "q",
                    "completion": "a", "prompt_ids": prompt, "completion_ids": completion,
                    "logprobs": [-1.0] * length, "finish_reason": "stop", "seed": 0, "answer": "1",
                    "reward": float(sample % 2), "grader": "given",
                }
            )  # fmt: skip
    return checked(pl.DataFrame(rows, schema=GRADED), GRADED, "benchmark rollouts")


def measured_peak() -> float:
    """FLOP/s of square matrix products: bfloat16 on a GPU, the training's float32 on a CPU; best of 5 timings."""
    size, dtype = (8192, torch.bfloat16) if device() == "cuda" else (1536, torch.float32)
    a, b = (torch.randn(size, size, dtype=dtype, device=device()) for _ in range(2))
    rounds = 20 if device() == "cuda" else 2
    best = 0.0
    for _ in range(6):
        began = now()
        for _ in range(rounds):
            a @ b
        best = max(best, rounds * 2 * size**3 / (now() - began))
    return best


def flops(shape: Shape, lora: LoraSpec, lengths: list[tuple[int, int]]) -> float:
    """Of one step over sequences of (prompt, completion) tokens: see the module's text."""
    q, kv, h = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim, shape.hidden
    layer = h * (q + 2 * kv) + q * h + 3 * h * shape.intermediate
    adapter = lora.r * ((h + q) + 2 * (h + kv) + (q + h))
    total = 0.0
    for prompt, completion in lengths:
        tokens = prompt + completion
        attention = 4 * q * tokens * tokens / 2
        total += shape.layers * (tokens * (4 * layer + 6 * adapter) + 3 * attention)
        total += completion * 4 * h * shape.vocabulary
    return total


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """Appends the bytes at the highest point within it."""
    found: list[float] = []
    if device() == "cuda":
        torch.cuda.reset_peak_memory_stats()
        yield found
        found.append(float(torch.cuda.max_memory_allocated()))
        return
    import psutil

    process, done, highest = psutil.Process(), threading.Event(), [0]
    before = process.memory_info().rss

    def watch() -> None:
        while not done.wait(0.005):
            highest[0] = max(highest[0], process.memory_info().rss - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()
        found.append(float(highest[0]))


def _free() -> None:
    gc.collect()
    if device() == "cuda":
        torch.cuda.empty_cache()


def now() -> float:
    """Seconds, with the device's work done: see the module's text."""
    if device() == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


class Clock:
    """A Trainer callback: seconds of every step."""

    def __new__(cls) -> Any:
        from transformers import TrainerCallback

        class Timed(TrainerCallback):
            def __init__(self) -> None:
                self.seconds: list[float] = []

            def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
                self.began = now()

            def on_step_end(self, *args: Any, **kwargs: Any) -> None:
                self.seconds.append(now() - self.began)

        return Timed()


def timed(build: Callable[[], Any], batch: int) -> dict[str, Any]:
    """Train once; useful tokens and seconds of every step but the first, peak memory, losses."""
    _free()
    with peak_memory() as peak:
        trainer = build()
        clock = Clock()
        trainer.add_callback(clock)
        trainer.train()
    steps = len(clock.seconds)
    examples = [trainer.train_dataset[i] for i in range(steps * batch)]
    lengths = [_lengths(example) for example in examples]
    used = {
        "seconds": clock.seconds[1:],
        "lengths": [[pair for one in lengths[i * batch : (i + 1) * batch] for pair in one] for i in range(1, steps)],
        "peak": peak[0],
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "limits": getattr(trainer, "limits", None),
        "notes": list(getattr(trainer, "notes", [])),
    }
    del trainer
    _free()
    return used


def _lengths(example: dict[str, Any]) -> list[tuple[int, int]]:
    """(prompt, completion) tokens of each of an example's sequences."""
    if "chosen_ids" in example:
        return [(len(example["prompt_ids"]), len(example[side])) for side in ("chosen_ids", "rejected_ids")]
    prompt = sum(label == -100 for label in example["labels"])
    return [(prompt, len(example["labels"]) - prompt)]


def _ours(*arguments: Any) -> Any:
    *given, folder = arguments
    return build_trainer(*given, INFO, None, folder)[0]


def stock_trainer(base: Path, dataset: Any, method: Method, train: TrainSpec, lora: LoraSpec, micro: int) -> Any:
    """TRL's trainer for ``method`` with TRL's defaults: only data, LoRA, optimiser and step are ours."""
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    from tasks.models.load import load_tokenizer

    tokenizer = load_tokenizer(base)
    on_cpu = device() == "cpu"
    arguments: dict[str, Any] = {
        "output_dir": tempfile.mkdtemp(), "max_steps": train.steps, "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": train.batch_size // micro, "learning_rate": INFO.lr, "seed": INFO.seed,
        "bf16": arithmetic(train.precision).autocast, "use_cpu": on_cpu, "max_length": None,
        "train_sampling_strategy": "sequential", "remove_unused_columns": False, "logging_steps": 1,
        "save_strategy": "no", "report_to": [], "disable_tqdm": True, "dataloader_pin_memory": not on_cpu,
    }  # fmt: skip
    common: dict[str, Any] = {
        "model": load_model(base, train.precision), "processing_class": tokenizer, "train_dataset": dataset,
        "peft_config": LoraConfig(
            r=lora.r, lora_alpha=lora.alpha, target_modules=list(lora.targets), task_type="CAUSAL_LM"
        ),
    }  # fmt: skip
    if isinstance(method, Dpo):

        class Stock(DPOTrainer):
            """Pairs are token ids already."""

            _prepare_dataset = TokenizedDPOTrainer._prepare_dataset

        return Stock(
            **common, args=DPOConfig(**arguments, beta=method.beta), data_collator=PairCollator(tokenizer.pad_token_id)
        )
    loss = getattr(method, "trl_loss", None) or "nll"
    config = SFTConfig(**arguments, loss_type=loss, dataset_kwargs={"skip_prepare_dataset": True})
    return SFTTrainer(**common, args=config, data_collator=RowCollator(tokenizer.pad_token_id, weighted=False))


def stock(base: Path, dataset: Any, method: Method, train: TrainSpec, lora: LoraSpec) -> tuple[dict[str, Any], int]:
    """`timed` of the stock trainer at the largest micro-batch that does not run out of memory, and that micro-batch."""
    micro = train.batch_size
    while True:
        try:
            build = partial(stock_trainer, base, dataset, method, train, lora, micro)
            return timed(build, train.batch_size), micro
        except torch.OutOfMemoryError:
            if micro == 1:
                raise
        _free()
        micro //= 2


def compare(shape: Shape, names: list[str], steps: int, folder: Path) -> list[dict[str, Any]]:
    """One row a method and trainer."""
    peak = measured_peak()
    lora = LoraSpec(r=32, alpha=64.0) if shape.layers > 4 else LoraSpec()
    train = TrainSpec(lr=INFO.lr, steps=steps, batch_size=shape.batch, packing="on")
    base = write_base(shape, folder / "base")
    graded = make_rollouts(shape, problems=max(shape.batch, steps * shape.batch // 4))
    graded.write_parquet(folder / "rollouts.parquet")
    rows: list[dict[str, Any]] = []
    stock_sft: dict[str, Any] | None = None
    for name in names:
        method = getattr(Methods(), name)
        selected, known, reference_seconds = method.select(graded), None, 0.0
        if method.against_base:
            known, reference_seconds = _reference(base, folder, selected, train)
        needed = steps * train.batch_size
        plain, with_known = (
            build_dataset(selected, method.kind, graded.height, needed, INFO.data_seed, one) for one in (None, known)
        )
        build = partial(_ours, base, with_known, method, train, lora, folder / "t")
        ours = timed(build, train.batch_size)
        own = name in ("sft", "dft", "dpo")  # TRL has these losses
        if own or stock_sft is None:
            theirs, micro = stock(base, plain, method, train, lora)
            stock_sft = theirs if name == "sft" else stock_sft
        else:
            theirs = stock_sft
        row = {"method": name, "stock": "its own" if own else "SFT's", "steps": len(ours["seconds"]), "micro": micro}
        for side, used in (("ours", ours), ("trl", theirs)):
            row |= {f"{side}_{key}": value for key, value in _rates(shape, lora, used, peak).items()}
        row["ratio"] = row["ours_tokens_per_second"] / row["trl_tokens_per_second"]
        row |= {"limits": str(ours["limits"]), "notes": ours["notes"], "reference_seconds": reference_seconds}
        if own:
            row["loss_difference"] = max(
                abs(a - b) / abs(b) for a, b in zip(ours["losses"], theirs["losses"], strict=True)
            )
        rows.append(row)
        print(json.dumps(row), flush=True)
    for row in rows:
        row["peak_flops"] = peak
    return rows


def _reference(base: Path, folder: Path, selected: pl.DataFrame, train: TrainSpec) -> tuple[pl.DataFrame, float]:
    began = now()
    write_reference(
        base=base, rollouts=folder / "rollouts.parquet", rows=rows_of(selected), precision=train.precision,
        pad_token=None, out=folder,
    )  # fmt: skip
    _free()
    return pl.read_parquet(folder / REFERENCE), now() - began


def _rates(shape: Shape, lora: LoraSpec, used: dict[str, Any], peak: float) -> dict[str, float]:
    """Medians over steps."""
    paired = list(zip(used["lengths"], used["seconds"], strict=True))
    return {
        "tokens_per_second": statistics.median(sum(map(sum, lengths)) / seconds for lengths, seconds in paired),
        "share_of_peak": statistics.median(flops(shape, lora, lengths) / seconds / peak for lengths, seconds in paired),
        "peak_gib": used["peak"] / 2**30,
    }


def table(rows: list[dict[str, Any]], shape: str) -> str:
    """Markdown."""
    where = torch.cuda.get_device_name() if device() == "cuda" else f"{torch.get_num_threads()} thread(s) of a CPU"
    lines = [
        f"Qwen3 shapes `{shape}` on {where} ({describe_machine()}), torch {torch.__version__}; measured matmul peak "
        f"{rows[0]['peak_flops'] / 1e12:.3g} TFLOP/s; medians of n = {rows[0]['steps']} steps",
        "",
        "| method | useful tokens/s | share of peak | peak GiB | TRL tokens/s | share | GiB | ours / TRL |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        star = "" if row["stock"] == "its own" else " (SFT's)"
        lines.append(
            f"| {row['method']} | {row['ours_tokens_per_second']:,.0f} | {row['ours_share_of_peak']:.0%} | "
            f"{row['ours_peak_gib']:.2f} | {row['trl_tokens_per_second']:,.0f}{star} | "
            f"{row['trl_share_of_peak']:.0%} | {row['trl_peak_gib']:.2f} | {row['ratio']:.2f} |"
        )
    return "\n".join(lines)


def fitting() -> str:
    """The largest shape for the device's memory; ``small`` on a CPU."""
    if device() == "cpu":
        return "small"
    free = torch.cuda.mem_get_info()[0]
    return next(name for name, shape in SHAPES.items() if shape.bytes_needed < free)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Training speed and memory at Qwen3's shapes, beside TRL's trainers.")
    parser.add_argument("--shape", choices=SHAPES, default=None, help="default: what fits the device")
    parser.add_argument("--methods", default="sft,rft,dft,rift,offline_grpo,dpo")
    parser.add_argument("--steps", type=int, default=None, help="optimiser steps, the first of which warms up")
    parser.add_argument("--json", type=Path, default=None, help="also write the rows there")
    given = parser.parse_args()
    shape = given.shape or fitting()
    steps = given.steps or 4
    with tempfile.TemporaryDirectory() as folder:
        rows = compare(SHAPES[shape], given.methods.split(","), steps, Path(folder))
    print(table(rows, shape))
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
