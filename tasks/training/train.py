"""Train one adapter: one base, one set of rollouts, one LoRA recipe; only the method differs."""

from __future__ import annotations

import gc
import hashlib
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from tasks.core.errors import InputError
from tasks.core.frames import GRADED, checked
from tasks.core.results import LocalTeacher, Progress, RunInfo, no_progress
from tasks.core.sections import LoraSpec, TrainSpec
from tasks.methods import Method
from tasks.methods.common import chosen
from tasks.training.build import build_trainer
from tasks.training.checkpoints import ending_well
from tasks.training.kept import CONFIG, keep_callback, save_adapter, write_config
from tasks.training.log import LOG, Diverged, close_log, log_callback, refuse_infinite

PARTS = "parts"
"""Folder of the phases' own updates, where a method has several."""
WEIGHTS = "adapter_model.safetensors"


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
    teacher: LocalTeacher | None = None,
    checkpoints: Path | None = None,
    kept: Path | None = None,
    until_kept: bool = False,
    killed: int = 0,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Train ``info``'s adapter and write it to ``out/adapter`` (PEFT), with its log and the order of its data.

    ``info.seed`` draws the LoRA initialisation, ``info.data_seed`` the order of the data, ``info.lr`` is the peak
    learning rate. Also written: ``training.parquet`` (TRAINING), ``stream.parquet`` (step, row), and of a method of
    several phases ``parts/``, each phase's own update as an adapter; these add up to the whole. Returns numbers for the
    study's checks: ``lora_a_sha256`` before the first step, ``examples`` of the last phase, ``tokens`` read, the last
    loss, ``warning`` (what ran out of memory and what was done about it; None where nothing did), and of a base with
    experts ``router_loss_dropped`` (the weight of the loss of its router, which no method has here).

    ``reference`` is the file that `tasks.training.reference` wrote, for a method of pairs; without it the base runs
    beside the policy. ``teacher``: of a method that is `Method.from_teacher`. ``checkpoints`` is a folder that outlives
    this process: what an earlier one left there is gone on with, and the caller deletes it when the output is safe.
    ``kept``: another such folder, for the adapters of ``train.keep_steps`` (`tasks.training.kept`); ``until_kept``: end
    with the last of these. ``killed``: how many workers before this one the system killed for memory; each halves what
    a pass holds.

    The files hold no path and no time: the same arguments give the same bytes in any folder. Raises `Diverged` at
    the first step whose loss or gradient is not finite, after the last one for weights that are not, and as
    ``train.stop_above_start`` says (the checkpoints of such a run are deleted; those of one that failed otherwise are
    not); `StageError` where one example is too much for
    the memory; `InputError` for settings that no trainer can follow.
    """
    from tasks.training.examples import asked, build_dataset

    if info.seed is None or info.data_seed is None:
        raise InputError(f"{info.run}: seed is {info.seed}, data_seed {info.data_seed}; training needs both")
    graded = checked(pl.read_parquet(rollouts), GRADED, "rollouts")
    known = None if reference is None else pl.read_parquet(reference)
    phases, work = method.phases(train), checkpoints or out / "trainer"
    before, steps = 0, method.kept(train)
    total = steps[-1] if until_kept else sum(phase.train.steps for phase in phases)
    ends: list[Path] = []
    seen: list[tuple[int, int]] = []
    found: dict[str, Any] = {"tokens": 0}
    notes: list[str] = []
    for place, phase in enumerate(phases):
        spec = phase.train
        selected = chosen(phase.method, graded, spec.mask_truncated)
        needed = spec.steps * spec.batch_size
        dataset = build_dataset(selected, phase.method.kind, graded.height, needed, info.data_seed, known)
        if teacher is not None:
            dataset = asked(dataset, graded, teacher, base, pad_token)
        # Of an earlier phase the checkpoints stay until the last has ended: a killed training goes on from both.
        folder = work / f"{work.name}.{place}" if place else work
        own, start = replace(info, lr=info.lr and info.lr * phase.rate), ends[-1] if ends else None
        trainer, collator = build_trainer(
            base, dataset, phase.method, spec, lora, own, pad_token, folder, start, teacher.folder if teacher else None
        )
        trainer.hold_less(killed)
        trainer._total_train_tokens = found["tokens"]  # TRL's running count, over all phases
        found.setdefault("lora_a_sha256", lora_a_digest(trainer.model))
        trainer.add_callback(log_callback(out / LOG, total, progress, spec.stop_above_start, before))
        own_steps = [step for step in steps if before < step <= before + spec.steps]
        if kept is not None and own_steps:
            last = until_kept and own_steps[-1] == steps[-1]
            trainer.add_callback(keep_callback(trainer, kept, own_steps, before, last=last))
        _run(trainer, collator, spec, out / LOG, checkpoints)
        ends.append(out / "adapter" if place == len(phases) - 1 else out / PARTS / _named(place, phase.method))
        save_adapter(trainer.model, ends[-1])
        final = trainer.state.log_history[-2] if len(trainer.state.log_history) > 1 else {}
        seen += [(before + i // spec.batch_size, row) for i, row in enumerate(collator.seen)]
        notes += [note for note in trainer.notes if note not in notes]
        before += int(trainer.state.global_step)
        found |= {"examples": selected.height, "last_loss": float(final.get("loss", math.nan))}
        found["tokens"] += collator.tokens
        if trainer.router_loss_dropped:
            found["router_loss_dropped"] = trainer.router_loss_dropped
        del trainer, collator  # the next one loads the base anew
        gc.collect()
        if until_kept and before >= steps[-1]:
            break
    _write_parts(ends, [phase.method for phase in phases], out / PARTS)
    close_log(out, info)
    pl.DataFrame(seen, schema={"step": pl.Int64, "row": pl.Int64}, orient="row").write_parquet(out / "stream.parquet")
    shutil.rmtree(out / "trainer", ignore_errors=True)
    return {**found, "steps": before, "warning": "; ".join(notes) or None}


def _named(place: int, method: Method) -> str:
    """``1-sft``."""
    return f"{place + 1}-{type(method).__name__.lower()}"


def _write_parts(ends: Sequence[Path], methods: Sequence[Method], folder: Path) -> None:
    """Of adapters at the ends of phases, each phase's own update; what is there already is that of the first."""
    for place in range(len(ends) - 1, 0, -1):
        write_difference(ends[place], ends[place - 1], folder / _named(place, methods[place]))


def write_difference(after: Path, before: Path, folder: Path) -> None:
    """The update of the LoRA adapter ``after`` less that of ``before``, exactly: an adapter of the sum of their ranks.

    alpha / r (B A - B' A') = alpha / r [B -B'] [A; A']. Both have the same modules, rank and alpha.
    """
    import torch
    from safetensors.torch import load_file, save_file

    weights, other = (load_file(path / WEIGHTS) for path in (after, before))
    joined = {
        name: torch.cat([value, other[name]] if "lora_A" in name else [value, -other[name]], dim=int("lora_B" in name))
        for name, value in weights.items()
    }
    config = json.loads((after / CONFIG).read_text(encoding="utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    save_file(joined, folder / WEIGHTS, metadata={"format": "pt"})
    write_config(folder, config | {"r": 2 * config["r"], "lora_alpha": 2 * config["lora_alpha"]})


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
