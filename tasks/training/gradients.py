"""The methods' gradients at the base, before the first step: what each loss asks for, all on the same rows.

Whole problems are drawn from the graded rollouts, so that advantages and pairs are those of whole groups. Each
method selects from them by its own rule, and its own trainer makes one backward pass over all it selected: the loss,
its weights and its arithmetic are those that are trained. At that point lora_B is 0, so lora_A has no gradient, and
lora_B's is the dense gradient times lora_A^T (by alpha / r): the same random projection for all methods, because all
begin from one lora_A. Imports torch when called: for worker processes.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tasks.core.errors import InputError, StageError
from tasks.core.frames import GRADED, checked
from tasks.core.results import Progress, RunInfo, no_progress
from tasks.core.sections import LoraSpec, TrainSpec
from tasks.methods import Method
from tasks.methods.common import chosen
from tasks.training.alignment import PARTS, Gradients, alignment_frame
from tasks.training.kept import save_adapter
from tasks.training.policy import on_policy
from tasks.training.reference import scored

GRADIENTS_FILE = "gradients.parquet"
ON_POLICY_FILE = "on_policy.parquet"
DIRECTIONS = "directions"
MOST_DENSE = 2**24
"""Weights in the target modules up to which their own gradients are kept, in float32, one a method: 64 MiB each."""
WRAPPED = "base_model.model."
"""What PEFT puts before a module's name."""


def measure_gradients(
    *,
    base: Path,
    rollouts: Path,
    methods: Mapping[str, Method],
    train: TrainSpec,
    lora: LoraSpec,
    seed: int,
    rows: int,
    pad_token: str | None,
    out: Path,
    directions: bool = False,
    killed: int = 0,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Write ``out/gradients.parquet`` (GRADIENTS) of ``methods`` on about ``rows`` rows of the graded ``rollouts``, and
    ``out/on_policy.parquet`` (ON_POLICY) of the same rows.

    ``seed`` draws the rows and the LoRA initialisation, as in training. Methods that sample their own completions have
    no gradient on recorded ones and are left out, as are those of several phases, whose first step is another method's,
    and those to which these rows leave no example. The gradients of the weights themselves are computed where these are
    in float32 and not more than `MOST_DENSE`. Memory beside the training's: 4 bytes x `PARTS` x lora_B's entries a
    method. ``directions``: also write ``out/directions/METHOD``, the adapter whose update is a step down the method's
    gradient, -G A^T A up to its length. ``killed``: as in `tasks.training.train`.
    """
    graded = checked(pl.read_parquet(rollouts), GRADED, "rollouts")
    drawn, parts = drawn_rows(graded, rows, seed)
    found, starts, left_out = [], set(), []
    for done, (name, method) in enumerate(methods.items()):
        progress(done, len(methods), name)
        recipe = method.recipe(train)
        try:
            selected = chosen(method, drawn, recipe.mask_truncated)
        except InputError:  # of all the rollouts it has examples: that was checked before the study began
            selected = None
        if selected is None or not method.on_rollouts:
            left_out.append(name)
            continue
        info = RunInfo(name, name, seed, seed, train.lr)
        to = out / DIRECTIONS / name if directions else None
        one, start = method_gradients(
            base, drawn, parts, selected, method, recipe, lora, info, pad_token, out, killed, to
        )
        found.append(one)
        starts.add(start)
    if len(starts) > 1:
        raise StageError("gradients: the methods began from different lora_A, so their projections cannot be compared")
    alignment_frame(found).write_parquet(out / GRADIENTS_FILE)
    progress(len(methods), len(methods), "rollouts under the base")
    on_policy(drawn, scored(base, drawn, train.precision, pad_token)).write_parquet(out / ON_POLICY_FILE)
    return {
        "rows": drawn.height,
        "problems": drawn["problem_id"].n_unique(),
        "lora_a_sha256": next(iter(starts), None),
        "dense": all(one.dense for one in found),
        "left_out": ", ".join(left_out),
    }


def drawn_rows(graded: pl.DataFrame, rows: int, seed: int) -> tuple[pl.DataFrame, list[int]]:
    """Whole problems of GRADED, drawn until they have ``rows`` rows, in the order of ``graded``; each row's part.

    A problem is in one part with all its rows; parts have equally many problems, give or take one.
    """
    sizes = graded.group_by("problem_id", maintain_order=True).len()
    sizes = sizes[np.random.default_rng((seed, rows)).permutation(sizes.height)]
    kept = sizes.filter(pl.col("len").cum_sum() - pl.col("len") < rows)
    part = kept.select("problem_id", part=pl.int_range(pl.len()) % PARTS)
    drawn = graded.join(part, on="problem_id", how="inner", maintain_order="left")
    return drawn.drop("part"), drawn["part"].to_list()


def method_gradients(
    base: Path,
    drawn: pl.DataFrame,
    parts: list[int],
    selected: pl.DataFrame,
    method: Method,
    train: TrainSpec,
    lora: LoraSpec,
    info: RunInfo,
    pad_token: str | None,
    out: Path,
    killed: int,
    direction: Path | None = None,
) -> tuple[Gradients, str]:
    """The gradients of ``method`` on its ``selected`` examples of ``drawn``, and the digest of the lora_A that lora_B's
    are projected on. ``parts``: of each row of ``drawn``. ``direction``: where the step down the gradient goes."""
    import torch

    from tasks.training.build import build_trainer
    from tasks.training.examples import build_dataset
    from tasks.training.train import lora_a_digest

    dataset = build_dataset(selected, method.kind, drawn.height, selected.height, info.seed or 0)
    lora = lora.model_copy(update={"dropout": 0.0})  # lora_B's mean gradient over masks is that without any
    trainer, collator = build_trainer(base, dataset, method, train, lora, info, pad_token, out / "trainer")
    trainer.hold_less(killed)
    start = lora_a_digest(trainer.model)
    layers = {
        name.removeprefix(WRAPPED): module
        for name, module in trainer.model.named_modules()
        if "default" in getattr(module, "lora_B", ())
    }
    lora_b = {name: layer.lora_B["default"].weight for name, layer in layers.items()}
    dense = _dense(trainer.model, layers)
    model = trainer.accelerator.prepare(trainer.model)  # as the Trainer does before its first step
    trainer.current_gradient_accumulation_steps = 1
    projected: dict[str, Any] = {
        name: np.zeros((PARTS, weight.numel()), dtype=np.float32) for name, weight in lora_b.items()
    }
    summed = {name: torch.zeros_like(weight) for name, weight in dense.items()}
    total = 0
    row_parts = np.array(parts)[list(trainer.train_dataset["row"])]
    for part in range(PARTS):
        batch = [trainer.train_dataset[int(place)] for place in np.flatnonzero(row_parts == part)]
        if not batch:
            continue
        inputs = trainer._prepare_inputs(collator(batch))
        weight = int(inputs["labels"][:, 1:].ne(-100).sum()) if "labels" in inputs else len(batch)
        total += weight
        model.zero_grad()
        trainer.training_step(model, inputs)
        for name, parameter in lora_b.items():
            projected[name][part] = weight * parameter.grad.float().cpu().numpy().ravel()
        for name, parameter in dense.items():
            summed[name] += weight * parameter.grad
    mean = {name: one / np.float32(total) for name, one in projected.items()}
    kept = {name: (one / total).cpu().numpy().ravel() for name, one in summed.items()}
    if direction is not None:
        with torch.no_grad():
            for name, parameter in lora_b.items():
                parameter.copy_(torch.from_numpy(-mean[name].sum(axis=0)).view_as(parameter))
        save_adapter(trainer.model, direction)
    del trainer, model, layers, lora_b, dense, summed
    gc.collect()
    torch.cuda.empty_cache()
    shutil.rmtree(out / "trainer", ignore_errors=True)
    return Gradients(info.method, selected.height, mean, kept), start


def _dense(model: Any, layers: Mapping[str, Any]) -> dict[str, Any]:
    """The modules' own weights, now with gradients; none where `measure_gradients` says that they are not computed."""
    import torch

    weights = {name: layer.get_base_layer().weight for name, layer in layers.items()}
    shared = model.get_input_embeddings().weight  # of a tied head: its gradient is not that module's alone
    small = sum(weight.numel() for weight in weights.values()) <= MOST_DENSE
    if not small or any(weight is shared or weight.dtype is not torch.float32 for weight in weights.values()):
        return {}
    for weight in weights.values():
        weight.requires_grad_(True)
    return weights
