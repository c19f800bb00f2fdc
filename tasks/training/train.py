"""Train one adapter: one base, one set of rollouts, one LoRA recipe; only the method differs."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import polars as pl

from tasks.core.errors import InputError
from tasks.core.frames import GRADED, checked
from tasks.core.results import Progress, RunInfo, no_progress
from tasks.core.sections import LoraSpec, TrainSpec
from tasks.methods import Method
from tasks.methods.common import chosen
from tasks.training.build import build_trainer
from tasks.training.checkpoints import ending_well
from tasks.training.log import LOG, Diverged, close_log, log_callback, refuse_infinite


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
    reference: Path | None = None,
    checkpoints: Path | None = None,
    killed: int = 0,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Train ``info``'s adapter and write it to ``out/adapter`` (PEFT), with its log and the order of its data.

    ``info.seed`` draws the LoRA initialisation, ``info.data_seed`` the order of the data, ``info.lr`` is the peak
    learning rate. Also written: ``training.parquet`` (TRAINING), ``stream.parquet`` (step, row). Returns numbers for
    the study's checks: ``lora_a_sha256`` before the first step, ``examples``, ``tokens`` read, the last loss,
    ``warning`` (what ran out of memory and what was done about it; None where nothing did), and of a base with experts
    ``router_loss_dropped`` (the weight of the loss of its router, which no method has here).

    ``reference`` is the file that `tasks.training.reference` wrote, for a method of pairs; without it the base runs
    beside the policy. ``checkpoints`` is a folder that outlives this process: what an earlier one left there is gone
    on with, and the caller deletes it when the output is safe. ``killed``: how many workers before this one the system
    killed for memory; each halves what a pass holds.

    The files hold no path and no time: the same arguments give the same bytes in any folder. Raises `Diverged` at
    the first step whose loss or gradient is not finite, after the last one for weights that are not, and as
    ``train.stop_above_start`` says (the checkpoints of such a run are deleted; those of one that failed otherwise are
    not); `StageError` where one example is too much for
    the memory; `InputError` for settings that no trainer can follow.
    """
    from tasks.training.examples import build_dataset

    if info.seed is None or info.data_seed is None:
        raise InputError(f"{info.run}: seed is {info.seed}, data_seed {info.data_seed}; training needs both")
    train = method.recipe(train)
    graded = checked(pl.read_parquet(rollouts), GRADED, "rollouts")
    selected = chosen(method, graded, train.mask_truncated)
    known = None if reference is None else pl.read_parquet(reference)
    dataset = build_dataset(selected, method.kind, graded.height, train.steps * train.batch_size, info.data_seed, known)
    work = checkpoints or out / "trainer"
    trainer, collator = build_trainer(base, dataset, method, train, lora, info, pad_token, work)
    trainer.hold_less(killed)
    lora_a = lora_a_digest(trainer.model)
    trainer.add_callback(log_callback(out / LOG, train.steps, progress, train.stop_above_start))
    _run(trainer, collator, train, out / LOG, checkpoints)
    save_adapter(trainer.model, out / "adapter")
    close_log(out, info)
    seen = collator.seen
    pl.DataFrame({"step": [i // train.batch_size for i in range(len(seen))], "row": seen}).write_parquet(
        out / "stream.parquet"
    )
    final = trainer.state.log_history[-2] if len(trainer.state.log_history) > 1 else {}
    shutil.rmtree(out / "trainer", ignore_errors=True)
    return {
        "lora_a_sha256": lora_a,
        "examples": selected.height,
        "steps": int(trainer.state.global_step),
        "tokens": collator.tokens,
        "last_loss": float(final.get("loss", math.nan)),
        "warning": "; ".join(trainer.notes) or None,
        **({"router_loss_dropped": dropped} if (dropped := trainer.router_loss_dropped) else {}),
    }


def _run(trainer: Any, collator: Any, train: TrainSpec, log: Path, checkpoints: Path | None) -> None:
    """Train to the end, from the newest checkpoint where there is one."""
    if checkpoints is None or train.checkpoint_steps is None:
        trainer.train()
        refuse_infinite(trainer.model.named_parameters(), trainer.state.global_step)
        return
    trainer.keep_checkpoints(train.checkpoint_steps, collator, log)
    try:
        with ending_well(trainer):
            trainer.train(resume_from_checkpoint=trainer.resume())
        refuse_infinite(trainer.model.named_parameters(), trainer.state.global_step)
    except Diverged:  # the same settings would do so again from there; out of memory may have been another's doing
        shutil.rmtree(checkpoints, ignore_errors=True)
        raise


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
