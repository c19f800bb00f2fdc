"""The checkpoints of one training as the path of its update: how far, how straight, and since when where it ended."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tasks.core.cores import threads
from tasks.core.errors import InputError
from tasks.core.frames import TRAJECTORIES, checked
from tasks.core.results import Progress, RunInfo, no_progress
from tasks.geometry.adapters.arguments import is_model
from tasks.geometry.adapters.checkpoint import Checkpoint
from tasks.geometry.adapters.dora import Weights
from tasks.geometry.adapters.opened import Named, check
from tasks.geometry.cosine import cosine_of, module_inner
from tasks.geometry.delta import Array, Source, check_size
from tasks.geometry.updates.modules import Decomposed

LOCKED = 0.9
"""Overlap with the final subspace from which on a subspace counts as the final one."""

KS = (1, 5, 10)

_CHECKPOINT = re.compile(r"checkpoint-(\d{1,12})")

MEASURES = ("norm", "rank1_share", "cosine_to_previous", "turn", "cosine_to_last")
"""Columns beside ``step`` and, for each k, ``overlap_k``; `Trajectory` says what they are."""


@dataclass(frozen=True)
class Lock:
    """When the top-k output subspace became the final one.

    ``step``: the first from which on its overlap with the last checkpoint's is never below ``threshold``; None where
    only the last itself is that near. ``null``: the overlap that two random subspaces have on average, k / out.
    """

    k: int
    threshold: float
    step: int | None
    null: float


@dataclass(frozen=True, eq=False)
class Trajectory:
    """One training's checkpoints. ``frame``: a row a checkpoint, by step.

    ``norm`` (Frobenius) of the update; ``rank1_share``: of the squared norm, what lies in the first singular direction
    of its module; ``cosine_to_previous`` and ``turn``, that angle in degrees, between the whole updates of this
    checkpoint and of the one before; ``cosine_to_last``; ``overlap_k``: ``|U_k^T U_k'|_F^2 / k`` of the top-k left
    (output) singular subspaces with the last checkpoint's, mean over modules: 1 same, k / out by chance. Null where it
    is not defined: before the second checkpoint, and where an update is zero.
    """

    frame: pl.DataFrame
    locks: tuple[Lock, ...]
    modules: int

    @property
    def ks(self) -> tuple[int, ...]:
        """The subspaces' dimensions."""
        return tuple(lock.k for lock in self.locks)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "modules": self.modules,
            "locks": [asdict(lock) for lock in self.locks],
            "checkpoints": self.frame.to_dicts(),
        }


def find_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, folder) of every ``checkpoint-N`` in a Trainer's output folder, by step and not by name."""
    found = ((_CHECKPOINT.fullmatch(path.name), path) for path in folder.iterdir() if path.is_dir())
    return sorted((int(match[1]), path) for match, path in found if match)


def read_trajectory(
    folder: str | Path, ks: Sequence[int] = KS, base: Path | None = None, progress: Progress = no_progress
) -> Trajectory:
    """Measure the checkpoints of a Trainer's output folder, each an adapter as PEFT saves it.

    ``ks``: dimensions of subspaces; the adapters' rank stands for those above it. ``base``: the model's folder, which
    DoRA takes. Cost: each checkpoint's factors are read and decomposed once; no dense matrix but for DoRA.

    Raises `InputError` in one line: fewer than two checkpoints, one without its files, whole models, adapters whose
    update no factors give, checkpoints that have not the same modules, NaN or infinite entries.

    Examples
    --------
    >>> import json, pathlib, tempfile
    >>> import numpy as np
    >>> from safetensors.numpy import save_file
    >>> run, name = pathlib.Path(tempfile.mkdtemp()), "base_model.model.model.layers.0.self_attn.q_proj"
    >>> for step, b in ((10, [[1.0], [1.0]]), (20, [[3.0], [4.0]])):
    ...     (run / f"checkpoint-{step}").mkdir()
    ...     save_file({f"{name}.lora_A.weight": np.array([[1.0, 0.0, 0.0]]), f"{name}.lora_B.weight": np.array(b)},
    ...               run / f"checkpoint-{step}" / "adapter_model.safetensors")
    ...     _ = (run / f"checkpoint-{step}" / "adapter_config.json").write_text(
    ...         json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 1}))
    >>> path = read_trajectory(run, ks=[1])
    >>> path.frame["norm"].round(3).to_list(), path.frame["cosine_to_last"].round(3).to_list()
    ([1.414, 5.0], [0.99, 1.0])
    >>> path.locks
    (Lock(k=1, threshold=0.9, step=10, null=0.5),)
    """
    folder = Path(folder)
    checkpoints = find_checkpoints(folder)
    if len(checkpoints) < 2:
        only = f"only {checkpoints[0][1].name}" if checkpoints else "no checkpoint-N folder"
        raise InputError(
            f"{folder}: {only} in it; a trajectory takes two checkpoints or more (save_steps, save_total_limit)"
        )
    weights = Weights(Checkpoint(base)) if base is not None else None
    sources = [_open(path, base, weights) for _, path in checkpoints]
    return trajectory(sources, [step for step, _ in checkpoints], ks, progress)


def _open(path: Path, base: Path | None, weights: Weights | None) -> Source:
    if is_model(path) and (path / "config.json").is_file():
        raise InputError(f"{path}: a whole model; a trajectory is read from adapters (compare two models with --base)")
    source = check(Named(RunInfo(path.name, path.name, None, None, None), path, str(path)), base, weights)
    if source is None:
        raise InputError(f"{path}: its update is not to be had from its factors; a trajectory takes LoRA, or DoRA")
    return source


def trajectory(
    sources: Sequence[Source], steps: Sequence[int], ks: Sequence[int] = KS, progress: Progress = no_progress
) -> Trajectory:
    """As `read_trajectory`, of updates that are open, in the order of ``steps``; two or more."""
    shapes = dict(sources[0].shapes)
    for source in sources[1:]:
        if dict(source.shapes) != shapes:
            raise InputError(f"{source.source} has other modules than {sources[0].source}: not one training's")
    chosen = dimensions(ks, min(source.rank or min(map(min, shapes.values())) for source in sources))

    def one(name: str) -> Array:
        updates = []
        for source in sources:
            updates.append(source.read(name))
            check_size(updates[-1], f"{source.source}: module {name}")
        return _module([Decomposed(update, max(chosen)) for update in updates], chosen)

    total = np.zeros((len(sources), 4 + 2 * len(chosen)))
    with threads(len(shapes)) as pool:
        for done, sums in enumerate(pool.map(one, shapes), start=1):
            total += sums
            progress(done, len(shapes), "modules")
    frame = _frame(steps, total, chosen)
    nulls = [float(np.mean([k / out for out, _ in shapes.values()])) for k in chosen]
    locks = tuple(_lock(frame, k, null) for k, null in zip(chosen, nulls, strict=True))
    return Trajectory(frame, locks, len(shapes))


def trajectory_frame(
    info: RunInfo,
    sources: Sequence[Source],
    steps: Sequence[int],
    gradient: Source | None = None,
    progress: Progress = no_progress,
) -> pl.DataFrame:
    """TRAJECTORIES of one run, without accuracies, from its updates after ``steps``, the whole one last.

    ``gradient``: the update of one step down the gradient at the base, of the same modules. Raises `InputError` as
    `trajectory`.
    """
    path = trajectory(sources, steps, (1,), progress)
    kept = path.frame.select("step", "norm", "rank1_share", "turn", "cosine_to_last", overlap="overlap_1")
    towards = cosines_to(gradient, sources) if gradient is not None else [None] * len(steps)
    known = {**asdict(info), "cosine_to_gradient": pl.Series(towards, dtype=pl.Float64), "chance": path.locks[0].null}
    found = kept.with_columns(pl.lit(value).alias(name) for name, value in known.items())
    asked = [pl.lit(None, kind).alias(name) for name, kind in TRAJECTORIES.items() if name not in found.columns]
    return checked(found.with_columns(asked), TRAJECTORIES, "trajectories")


def cosines_to(one: Source, others: Sequence[Source]) -> list[float | None]:
    """Cosine of the update ``one`` with each of ``others``, over all its modules; None where either is zero."""
    sums = np.zeros((len(others), 2))
    own = 0.0
    for name in one.shapes:
        update = one.read(name)
        own += module_inner(update, update)
        for place, other in enumerate(others):
            beside = other.read(name)
            sums[place] += module_inner(update, beside), module_inner(beside, beside)
    cosines = cosine_of(sums[:, 0], np.full(len(others), own), sums[:, 1])
    return [None if math.isnan(cosine) else float(cosine) for cosine in cosines]


def dimensions(ks: Sequence[int], width: int) -> tuple[int, ...]:
    """``ks``, with the rank ``width`` of the updates in place of those above it."""
    if not ks or min(ks) < 1:
        raise InputError(f"--k: expected dimensions of at least 1, got {list(ks)}")
    return tuple(sorted({min(k, width) for k in ks}))


def own_sums(one: Decomposed, before: Decomposed | None) -> tuple[float, float, float]:
    """What of one module adds up over modules: squared norm, the first direction's, inner product with the checkpoint
    before (0 without one)."""
    first = float(one.svd.s[0]) ** 2 if one.svd.rank else 0.0
    return one.squared, first, module_inner(one.exact, before.exact) if before is not None else 0.0


def own_measures(sums: Sequence[float], squared_before: float | None) -> dict[str, float | None]:
    """``norm``, ``rank1_share``, ``cosine_to_previous`` and ``turn`` of one checkpoint, from `own_sums` added up."""
    squared, first, inner = sums
    cosine = math.nan
    if squared_before is not None:
        cosine = float(cosine_of(np.array(inner), np.array(squared), np.array(squared_before)))
    known = not math.isnan(cosine)
    return {
        "norm": math.sqrt(squared),
        "rank1_share": first / squared if squared else None,
        "cosine_to_previous": cosine if known else None,
        "turn": math.degrees(math.acos(cosine)) if known else None,
    }


def _module(path: Sequence[Decomposed], ks: Sequence[int]) -> Array:
    """(M, 4 + 2 K) `own_sums`, the inner product with the last, overlaps with the last and whether they are defined."""
    last = path[-1]
    rows = []
    for place, one in enumerate(path):
        known = [min(one.svd.rank, last.svd.rank) >= k for k in ks]
        overlaps = [
            float(np.sum((last.svd.U[:, :k].T @ one.svd.U[:, :k]) ** 2)) / k if fits else 0.0
            for k, fits in zip(ks, known, strict=True)
        ]
        own = own_sums(one, path[place - 1] if place else None)
        rows.append([*own, module_inner(one.exact, last.exact), *overlaps, *map(float, known)])
    return np.array(rows)


def _frame(steps: Sequence[int], sums: Array, ks: Sequence[int]) -> pl.DataFrame:
    squared = sums[:, 0]
    to_last = cosine_of(sums[:, 3], squared, np.full_like(squared, squared[-1]))
    rows: list[Mapping[str, Any]] = []
    for place, step in enumerate(steps):
        own = own_measures(sums[place, :3].tolist(), float(squared[place - 1]) if place else None)
        values = [
            float(total / count) if count else None
            for total, count in zip(sums[place, 4 : 4 + len(ks)], sums[place, 4 + len(ks) :], strict=True)
        ]
        overlaps = {f"overlap_{k}": value for k, value in zip(ks, values, strict=True)}
        last = None if math.isnan(to_last[place]) else float(to_last[place])
        rows.append({"step": step, **own, "cosine_to_last": last, **overlaps})
    return pl.DataFrame(rows, schema=schema(ks))


def schema(ks: Sequence[int]) -> dict[str, pl.DataType]:
    """Columns of a trajectory's frame, and of the table that `tasks.geometry.callback` writes."""
    names = (*MEASURES, *(f"overlap_{k}" for k in ks))
    return {"step": pl.Int64(), **{name: pl.Float64() for name in names}}


def _lock(frame: pl.DataFrame, k: int, null: float) -> Lock:
    near = [value is not None and value >= LOCKED for value in frame[f"overlap_{k}"]]
    since = max((place + 1 for place, one in enumerate(near) if not one), default=0)
    step = frame["step"][since] if since < len(near) - 1 else None
    return Lock(k, LOCKED, step, null)
