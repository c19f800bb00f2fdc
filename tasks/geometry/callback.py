"""A `TrainerCallback` that measures a LoRA update while any Trainer of transformers or TRL trains it.

Only who uses it imports this module, and with it transformers: `from tasks.geometry import GeometryCallback`.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import polars as pl
from transformers import Trainer, TrainerCallback

from tasks.core.cores import threads
from tasks.core.errors import InputError
from tasks.geometry.adapters.peft_config import explain
from tasks.geometry.delta import Factors, NotFinite, checked_factors, natural
from tasks.geometry.trajectory import KS, dimensions, find_checkpoints, own_measures, own_sums, read_trajectory, schema
from tasks.geometry.updates.modules import Decomposed

FILE = "trajectory.csv"

_PEFT = "base_model.model."


class GeometryCallback(TrainerCallback):
    """Writes ``trajectory.csv`` beside a training's checkpoints: what `colinear compare RUN` reads from them.

    A row for each checkpoint that the Trainer saves, or each ``every`` steps: norm of the update, the share of it in
    one direction, its cosine with the row before and that angle in degrees (`tasks.geometry.trajectory.Trajectory`),
    written as they come. When the training ends, the cosine and the overlaps with the last checkpoint are filled in,
    for those checkpoints that are there.

    ``trainer``: with it each row also goes through its log, as ``geometry/norm``, ...: to whatever its ``report_to``
    names (MLflow, Weights & Biases, TensorBoard). ``ks``: dimensions of the subspaces that are compared at the end.
    Measured are the live factors (the active adapter), in float64 and never multiplied out; on the first process alone.
    In memory it keeps the last row's factors, in float64.

    Raises `InputError` before the first step where the update is not that of plain LoRA factors (DoRA, PiSSA, ...),
    where there are none, or where they are sharded (ZeRO-3, FSDP).

    Examples
    --------
    ::

        trainer = SFTTrainer(model, args=args, train_dataset=rows, peft_config=LoraConfig(r=16))
        trainer.add_callback(GeometryCallback(trainer))
        trainer.train()
    """

    def __init__(self, trainer: Trainer | None = None, *, every: int | None = None, ks: tuple[int, ...] = KS) -> None:
        if every is not None and every < 1:
            raise InputError(f"every is {every}; rows are at least 1 step apart (None: one for each checkpoint)")
        self._trainer, self._every, self._ks = trainer, every, ks
        self._rows: list[dict[str, Any]] = []
        self._before: dict[str, Decomposed] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refuse what cannot be measured; of a training that goes on, take up its rows."""
        if not state.is_world_process_zero:
            return
        factors = live_factors(kwargs["model"])
        self._rows, self._before = [], {}
        self._ks = dimensions(self._ks, min(min(one.A.shape[0], *one.shape) for one in factors.values()))
        file = Path(args.output_dir) / FILE
        if state.global_step and file.is_file():
            self._rows = pl.read_csv(file).filter(pl.col("step") <= state.global_step).to_dicts()
            self._before = _decomposed(factors)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A row, where the step is one of each ``every``."""
        if self._every and state.global_step % self._every == 0:
            self._record(args, state, kwargs["model"])

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A row for the checkpoint that was saved."""
        if not self._every:
            self._record(args, state, kwargs["model"])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Fill in what the last checkpoint tells of those before."""
        folder = Path(args.output_dir)
        if not state.is_world_process_zero or not self._rows or len(find_checkpoints(folder)) < 2:
            return
        try:
            path = read_trajectory(folder, self._ks)
        except InputError as error:  # somebody's model is about to be saved: no reason to stop
            warnings.warn(f"{FILE} lacks what the last checkpoint tells: {error}", stacklevel=2)
            return
        known = {row["step"]: row for row in path.frame.to_dicts()}
        late = ["cosine_to_last", *(f"overlap_{k}" for k in path.ks)]
        for row in self._rows:
            row |= {name: known[row["step"]][name] for name in late if row["step"] in known}
        self._write(folder)

    def _record(self, args: Any, state: Any, model: Any) -> None:
        if not state.is_world_process_zero or (self._rows and self._rows[-1]["step"] == state.global_step):
            return
        try:
            now = _decomposed(live_factors(model))
        except NotFinite as error:
            warnings.warn(f"step {state.global_step} has no row in {FILE}: {error}", stacklevel=2)
            return
        each = [own_sums(one, self._before.get(name)) for name, one in now.items()]
        before = sum(one.squared for one in self._before.values()) if self._before else None
        own = own_measures([sum(part) for part in zip(*each, strict=True)], before)
        self._rows.append({"step": state.global_step, **own})
        self._before = now
        self._write(Path(args.output_dir))
        if self._trainer is not None:
            known = {f"geometry/{name}": value for name, value in own.items() if value is not None}
            # Not its own log(): TRL's trainers average what they have gathered since the last one and begin anew.
            Trainer.log(self._trainer, known)

    def _write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        fresh = folder / f".{FILE}.tmp"
        columns = schema(self._ks)
        pl.DataFrame([{**dict.fromkeys(columns), **row} for row in self._rows], schema=columns).write_csv(fresh)
        fresh.replace(folder / FILE)


def live_factors(model: Any) -> dict[str, Factors]:
    """Module -> its active LoRA factors in float64, named as in a saved adapter, in the model's order.

    Raises `InputError` for a model without LoRA, another update than scale * B A, several active adapters, factors that
    this process has only a part of; `NotFinite` for NaN or infinite entries.
    """
    import torch
    from peft.tuners.lora import LoraLayer

    found: dict[str, Factors] = {}
    configs = getattr(model, "peft_config", {})
    chosen = model.active_adapters if configs else []
    chosen = chosen() if callable(chosen) else chosen  # a method where transformers holds the adapters itself
    for name, config in configs.items():
        reason = explain(config.to_dict(), beside=False)
        if reason is None and getattr(config, "target_parameters", None):
            reason = "target_parameters changes parameters that are not linear weights"
        if reason and name in chosen:
            raise InputError(
                f"GeometryCallback: the update is not scale * B A ({reason}); leave the callback out, and compare the "
                "checkpoints later: `colinear compare ... --base MODEL`"
            )
    for name, module in model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        active = [one for one in module.active_adapters if one in module.scaling]
        if len(active) > 1:
            raise InputError(f"GeometryCallback: {', '.join(active)} are active at once; one adapter is measured")
        for adapter in active:
            if adapter in module.lora_A:
                a, b = module.lora_A[adapter].weight, module.lora_B[adapter].weight
            else:
                a, b = module.lora_embedding_A[adapter], module.lora_embedding_B[adapter]
            if not a.numel() or not b.numel() or hasattr(a, "full_tensor"):
                raise InputError("GeometryCallback: LoRA's factors are sharded (ZeRO-3, FSDP), so no process has them")
            if a.ndim == 2:
                ours = name.removeprefix(_PEFT)
                b, a = (one.detach().to("cpu", torch.float64, copy=True).numpy() for one in (b, a))  # it trains on
                found[ours] = checked_factors(Factors(b, a, module.scaling[adapter]), f"module {ours}")
    if not found:
        raise InputError("GeometryCallback: the model has no LoRA module; give the Trainer a PEFT model or peft_config")
    return {name: found[name] for name in sorted(found, key=natural)}


def _decomposed(factors: dict[str, Factors]) -> dict[str, Decomposed]:
    with threads(len(factors)) as pool:
        return dict(zip(factors, pool.map(lambda one: Decomposed(one, 1), factors.values()), strict=True))
