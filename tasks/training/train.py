"""Train one adapter: one base, one set of rollouts, one LoRA recipe; only the method differs."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from tasks.contracts import GRADED, TRAINING, InputError, Progress, RunInfo, StageError, checked, no_progress
from tasks.methods import Method
from tasks.specs import LoraSpec, TrainSpec

LOG = "log.jsonl"  # one line a step while training runs


def train_adapter(
    *,
    base: Path,
    rollouts: Path,
    method: Method,
    train: TrainSpec,
    lora: LoraSpec,
    info: RunInfo,
    pad_token: str | None,
    out: Path,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Train ``info``'s adapter and write it to ``out/adapter`` (PEFT), with its log and the order of its data.

    ``info.seed`` draws the LoRA initialisation, ``info.data_seed`` the order of the data, ``info.lr`` is the peak
    learning rate. Also written: ``training.parquet`` (TRAINING), ``stream.parquet`` (step, row). Returns numbers for
    the study's checks: ``lora_a_sha256`` before the first step, ``examples``, ``tokens`` read, the last loss.

    The files hold no path and no time: the same arguments give the same bytes in any folder. Raises `StageError` at
    the first step whose loss or gradient is not finite, `InputError` for settings that no trainer can follow.
    """
    from tasks.training.examples import build_dataset

    if info.seed is None or info.data_seed is None:
        raise InputError(f"{info.run}: seed is {info.seed}, data_seed {info.data_seed}; training needs both")
    graded = checked(pl.read_parquet(rollouts), GRADED, "rollouts")
    selected = method.select(graded)
    dataset = build_dataset(selected, method.kind, graded.height, train.steps * train.batch_size, info.data_seed)
    trainer, collator = build_trainer(base, dataset, method, train, lora, info, pad_token, out / "trainer")
    lora_a = lora_a_digest(trainer.model)
    trainer.add_callback(_log_callback(out / LOG, train.steps, progress))
    trainer.train()
    save_adapter(trainer.model, out / "adapter")
    _write_log(out, info)
    seen = collator.seen
    pl.DataFrame({"step": [i // train.batch_size for i in range(len(seen))], "row": seen}).write_parquet(
        out / "stream.parquet"
    )
    final = trainer.state.log_history[-2] if len(trainer.state.log_history) > 1 else {}
    _remove(out / "trainer")
    return {
        "lora_a_sha256": lora_a,
        "examples": selected.height,
        "steps": int(trainer.state.global_step),
        "tokens": collator.tokens,
        "last_loss": float(final.get("loss", math.nan)),
    }


def build_trainer(
    base: Path,
    dataset: Any,
    method: Method,
    train: TrainSpec,
    lora: LoraSpec,
    info: RunInfo,
    pad_token: str | None,
    folder: Path,
) -> tuple[Any, Any]:
    """The TRL trainer for ``method`` on ``dataset``, and its collator. The adapter is fresh: ``info.seed`` draws it."""
    from peft import LoraConfig
    from trl import DPOConfig, SFTConfig, SFTTrainer

    from tasks.methods.common import RowMethod
    from tasks.methods.dpo import Dpo
    from tasks.models.load import load_model, load_tokenizer
    from tasks.training.trainers import PairCollator, RowCollator, TokenizedDPOTrainer, WeightedSFTTrainer

    tokenizer = load_tokenizer(base, pad_token)
    model = load_model(base, train.precision)
    model.train()
    common: dict[str, Any] = {"model": model, "processing_class": tokenizer, "train_dataset": dataset}
    common["peft_config"] = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        task_type="CAUSAL_LM",
    )
    arguments = _arguments(train, info, folder)
    collator: Any
    if isinstance(method, Dpo):
        collator = PairCollator(tokenizer.pad_token_id)
        config = DPOConfig(
            **arguments, beta=method.beta, loss_type=[method.loss_type], label_smoothing=method.label_smoothing
        )
        return TokenizedDPOTrainer(**common, args=config, data_collator=collator), collator
    assert isinstance(method, RowMethod)
    collator = RowCollator(tokenizer.pad_token_id, weighted=method.trl_loss is None)
    config = SFTConfig(**arguments, loss_type=method.trl_loss or "nll", dataset_kwargs={"skip_prepare_dataset": True})
    if method.trl_loss is None:
        return WeightedSFTTrainer(**common, args=config, data_collator=collator, method=method), collator
    return SFTTrainer(**common, args=config, data_collator=collator), collator


def _arguments(train: TrainSpec, info: RunInfo, folder: Path) -> dict[str, Any]:
    """Settings that every trainer shares. TRL's own defaults differ from these in precision and checkpointing."""
    from tasks.models.load import arithmetic, device

    micro = min(train.micro_batch_size or train.batch_size, train.batch_size)
    if train.batch_size % micro:
        raise InputError(f"train.micro_batch_size: {micro} does not divide train.batch_size {train.batch_size}")
    return {
        "output_dir": str(folder),
        "max_steps": train.steps,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": train.batch_size // micro,
        "learning_rate": info.lr,
        "lr_scheduler_type": train.scheduler,
        "warmup_steps": round(train.warmup * train.steps),
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_grad_norm,
        "seed": info.seed,
        "bf16": arithmetic(train.precision).autocast,
        "use_cpu": device() == "cpu",
        "gradient_checkpointing": device() == "cuda",
        "train_sampling_strategy": "sequential",  # the data set is the stream already
        "remove_unused_columns": False,
        "max_length": None,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # by default the Trainer logs the mean of earlier losses in place of a NaN
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": device() == "cuda",
    }


def lora_a_digest(model: Any) -> str:
    """sha256 over the bytes of every lora_A in order of name: equal means the same initialisation."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if "lora_A" in name and ".ref." not in name:
            digest.update(name.encode())
            digest.update(parameter.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def save_adapter(model: Any, folder: Path) -> None:
    """Write ``model``'s adapter as PEFT does, less what depends on the place or the process.

    Those are the base's path, the model card that repeats it, and the order of the target modules, which PEFT keeps as
    a set: any of them would give two equal adapters different digests.
    """
    model.save_pretrained(folder, safe_serialization=True)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = None
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _log_callback(path: Path, steps: int, progress: Progress) -> Any:
    from transformers import TrainerCallback

    class Log(TrainerCallback):
        """Append every logged step to a file, which the driver reads while we train."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            values = {k: v for k, v in (logs or {}).items() if isinstance(v, int | float)}
            if "train_runtime" in values:  # the closing summary: timings, which have no place in an artifact
                return
            with path.open("a") as file:
                file.write(json.dumps({"step": state.global_step, **values}) + "\n")
            _refuse_divergence(values, state.global_step)
            progress(state.global_step, steps, f"loss {values.get('loss', math.nan):.3f}")

    return Log()


def _refuse_divergence(values: Mapping[str, float], step: int) -> None:
    for name in ("loss", "grad_norm"):
        if not math.isfinite(values.get(name, 0.0)):
            raise StageError(f"training diverged: {name} is {values[name]} at step {step}; lower train.lr")


def read_log(path: Path) -> list[tuple[str, float, int]]:
    """``(metric, value, step)`` rows of a log written so far; an unfinished last line is left for the next time."""
    rows = []
    for line in path.read_text().splitlines(keepends=True) if path.is_file() else []:
        if not line.endswith("\n"):
            break
        values = json.loads(line)
        step = values.pop("step")
        rows += [(name, float(value), int(step)) for name, value in values.items() if name != "epoch"]
    return rows


def _write_log(out: Path, info: RunInfo) -> None:
    """The log as a TRAINING frame in place of its lines."""
    rows = read_log(out / LOG)
    frame = pl.DataFrame(
        {
            "run": [info.run] * len(rows),
            "step": [step for _, _, step in rows],
            "metric": [name for name, _, _ in rows],
            "value": [value for _, value, _ in rows],
        },
        schema=TRAINING,
    )
    frame.write_parquet(out / "training.parquet")
    (out / LOG).unlink(missing_ok=True)


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
