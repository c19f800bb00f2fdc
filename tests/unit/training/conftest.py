"""One little base and one set of rollouts for the whole session; every method trained twice on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from tasks.core.results import RunInfo
from tasks.core.sections import TrainSpec
from tasks.methods import METHOD_NAMES, Method, Methods
from tasks.training.build import build_trainer
from tasks.training.examples import build_dataset
from tests.lab.world import LORA, World, make_graded, read_adapter, write_base


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in one order, and the other core left to others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_world(folder: Path) -> World:
    rollouts = folder / "rollouts.parquet"
    base = write_base(folder / "base")
    make_graded().write_parquet(rollouts)
    return World(base, rollouts)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@dataclass(frozen=True)
class Trained:
    """One run's folder and what `train_adapter` returned."""

    info: RunInfo
    out: Path
    summary: dict[str, Any]


OFFLINE = [name for name in METHOD_NAMES if getattr(Methods(), name).on_rollouts]
"""What trains on recorded completions by one loss; `test_online` and `test_phases` have the others."""
TRAIN = TrainSpec(lr=1e-2, steps=6, batch_size=8)  # 48 rollouts: exactly one epoch of the common stream


def train_all(world: World, folder: Path) -> dict[str, Trained]:
    trained = {}
    for name in OFFLINE:
        info = RunInfo(name, name, seed=3, data_seed=7, lr=TRAIN.lr)
        trained[name] = Trained(info, folder / name, world.train(folder / name, getattr(Methods(), name), info, TRAIN))
    return trained


@pytest.fixture(scope="session")
def trained(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    """Every method of `OFFLINE`, trained from one seed and one data seed."""
    return train_all(world, tmp_path_factory.mktemp("once"))


@pytest.fixture(scope="session")
def trained_again(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    """The same once more: another output folder, and the same base and rollouts made again in another place."""
    return train_all(make_world(tmp_path_factory.mktemp("elsewhere")), tmp_path_factory.mktemp("again"))


@dataclass(frozen=True)
class Found:
    """Four steps of eight: every metric of every step, the adapter, the summary, and the rows in their order."""

    metrics: dict[tuple[int, str], float]
    adapter: dict[str, torch.Tensor]
    summary: dict[str, Any]
    stream: pl.DataFrame

    @property
    def losses(self) -> list[float]:
        return [value for (_, metric), value in self.metrics.items() if metric == "loss"]


RUN = RunInfo("run", "any", seed=3, data_seed=7, lr=1e-2)


def four_steps(world: World, out: Path, method: Method, **settings: Any) -> Found:
    spec = TrainSpec.model_validate({"lr": 1e-2, "steps": 4, "batch_size": 8, **settings})
    summary = world.train(out, method, RUN, spec)
    log = pl.read_parquet(out / "training.parquet").select("step", "metric", "value").sort("step", maintain_order=True)
    metrics = {(step, metric): value for step, metric, value in log.iter_rows()}
    return Found(metrics, read_adapter(out), summary, pl.read_parquet(out / "stream.parquet"))


def make_trainer(
    world: World, method: Method, train: TrainSpec, folder: Path, graded: pl.DataFrame | None = None, **more: Any
) -> tuple[Any, Any]:
    """(trainer, collator) of a method on ``graded`` (the world's own), its batches in the order of `RUN`."""
    graded, needed = make_graded() if graded is None else graded, train.steps * train.batch_size
    dataset = build_dataset(method.select(graded), method.kind, graded.height, needed, RUN.data_seed)
    return build_trainer(world.base, dataset, method, train, LORA, RUN, None, folder, **more)


def perturb(model: Any, scale: float = 0.3) -> None:
    """Move every lora_B that is trained, so that policy and reference differ."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "lora_B.default" in name:
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))


def first_batch(trainer: Any) -> Any:
    return next(iter(trainer.get_train_dataloader()))


@pytest.fixture(scope="session")
def plain(world: World, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Method, str], Found]:
    """`four_steps` of a method, padded or packed, in batches that are not cut: trained for the first who asks."""

    @cache
    def trained(method: Method, packing: str) -> Found:
        return four_steps(world, tmp_path_factory.mktemp("plain") / "run", method, packing=packing)

    return trained
