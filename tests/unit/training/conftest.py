"""One little base and one set of rollouts for the whole session; every method trained twice on them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.core.results import RunInfo
from tasks.core.sections import TrainSpec
from tasks.methods import METHOD_NAMES, Methods
from tests.lab.world import World, make_graded, write_base


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


OFFLINE = [name for name in METHOD_NAMES if name != "online_grpo"]
"""What trains on recorded completions; `test_online` has the other."""
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
