"""What a training writes down step by step, and when it has to be ended because it diverged."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from tasks.core.errors import StageError
from tasks.core.frames import TRAINING
from tasks.core.results import Progress, RunInfo

LOG = "log.jsonl"  # one line a step while training runs
DIVERGED = "training diverged"
"""How the message of a training that was ended for its numbers begins."""
FOUND = "found in MLflow run"
"""In the message of a divergence that was not computed again."""


class Diverged(StageError):
    """A training was ended for its numbers: with the same settings it would be so again."""


def divergence(message: str) -> str:
    """What a message says of a divergence, without what stands around it; empty where it says none."""
    if DIVERGED not in message:
        return ""
    said = message[message.index(DIVERGED) :]
    return said.partition(" (full traceback")[0].partition(f" ({FOUND}")[0]


def log_callback(path: Path, steps: int, progress: Progress, window: int | None = None, before: int = 0) -> Any:
    """A Trainer callback that appends every logged step to a file, which the driver reads while we train.

    ``before``: how many of the ``steps`` other trainers did before this one. It raises `Diverged` at the first loss or
    gradient that is not finite, and where the mean loss of the last ``window`` steps lies above that of the first
    ``window``.
    """
    from transformers import TrainerCallback

    class Log(TrainerCallback):
        """See `log_callback`."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            values = {k: v for k, v in (logs or {}).items() if isinstance(v, int | float)}
            if "train_runtime" in values:  # the closing summary: timings, which have no place in an artifact
                return
            step = before + state.global_step
            with path.open("a") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
            _refuse_divergence(values, step)
            if window is not None:
                _refuse_rise([entry["loss"] for entry in state.log_history if "loss" in entry], window)
            progress(step, steps, f"loss {values.get('loss', math.nan):.3f}")

    return Log()


def _refuse_divergence(values: Mapping[str, float], step: int) -> None:
    for name in ("loss", "grad_norm"):
        if not math.isfinite(values.get(name, 0.0)):
            raise Diverged(f"{DIVERGED}: {name} is {values[name]} at step {step}{_way_out(step)}")


def _way_out(step: int) -> str:
    """The first step's loss and gradient are those of the base itself: no learning rate changes them."""
    if step > 1:
        return "; lower train.lr"
    return ", before any update: look for NaN in the base's weights (model.base), or set train.precision=float32"


def refuse_infinite(parameters: Iterable[tuple[str, Any]], step: int) -> None:
    """Raise `Diverged` where the last update left a trained weight that is not finite: no later loss would show it."""
    import torch

    for name, parameter in parameters:
        if parameter.requires_grad and not bool(torch.isfinite(parameter).all()):
            raise Diverged(f"{DIVERGED}: {name} is not finite after step {step}, the last; lower train.lr")


def _refuse_rise(losses: list[float], window: int) -> None:
    """One loss a step, from the first on."""
    if len(losses) < 2 * window:
        return
    start, now = (math.fsum(part) / window for part in (losses[:window], losses[-window:]))
    if now > start:
        raise Diverged(
            f"{DIVERGED}: the loss of the last {window} steps is {now:.4g} at step {len(losses)}, above the "
            f"{start:.4g} of the first {window}; lower train.lr"
        )


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


def close_log(out: Path, info: RunInfo) -> None:
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
