"""When a training is ended for its numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.core.errors import StageError
from tasks.core.results import RunInfo
from tasks.core.sections import TrainSpec
from tasks.methods.sft import Sft
from tasks.training.log import _refuse_rise, read_log
from tests.lab.world import World


def test_the_last_steps_are_held_against_the_first() -> None:
    _refuse_rise([2.0, 4.0, 9.0], window=2)  # too short to say
    _refuse_rise([2.0, 4.0, 9.0, -3.0], window=2)  # (9 - 3) / 2 = 3 is not above (2 + 4) / 2 = 3
    with pytest.raises(StageError, match=r"of the last 2 steps is 3\.5 at step 4, above the 3 of the first 2; lower"):
        _refuse_rise([2.0, 4.0, 9.0, -2.0], window=2)
    _refuse_rise([-5.0, -6.0], window=1)  # losses of advantages are negative


def test_a_run_whose_loss_rises_is_ended_as_diverged(world: World, tmp_path: Path) -> None:
    run = RunInfo("sft", "sft", seed=3, data_seed=7, lr=300.0)
    train = TrainSpec(steps=30, batch_size=8, scheduler="constant", warmup=0.0, stop_above_start=3)
    with pytest.raises(StageError, match=r"^training diverged: the loss of the last 3 steps"):
        world.train(tmp_path / "out", Sft(), run, train)
    losses = [value for metric, value, _ in read_log(tmp_path / "out" / "log.jsonl") if metric == "loss"]
    assert 6 <= len(losses) < 30
    assert sum(losses[-3:]) > sum(losses[:3])
