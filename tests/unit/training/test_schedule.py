"""A schedule that is longer than the training: the adapter is the one that the longer training has at that step."""

from __future__ import annotations

from dataclasses import replace
from math import cos, pi
from pathlib import Path

import pytest

from tasks.core.sections import TrainSpec
from tasks.methods import Methods
from tests.lab.world import World, logged, read_adapter
from tests.unit.training.conftest import RUN

WHOLE = TrainSpec(lr=1e-2, steps=6, batch_size=8, warmup=0.34)  # 2 warm-up steps of 6
CUT = WHOLE.model_copy(update={"steps": 3, "schedule_steps": 6})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sft", "rift", "dpo"])
def test_the_steps_are_those_of_the_longer_training(world: World, tmp_path: Path, name: str) -> None:
    method, run = getattr(Methods(), name), replace(RUN, run=name, method=name)
    whole, cut, alone = tmp_path / "whole", tmp_path / "cut", tmp_path / "alone"
    world.train(whole, method, run, WHOLE)
    world.train(cut, method, run, CUT)
    for metric in ("loss", "grad_norm", "learning_rate"):
        assert logged(cut, metric) == logged(whole, metric)[:3], metric
    # half the warm-up, all of it, then the cosine's first quarter: (1 + cos(pi / 4)) / 2
    expected = [0.0, 0.005, 0.01]
    assert logged(cut, "learning_rate") == pytest.approx(expected)
    assert logged(whole, "learning_rate")[3] == pytest.approx(0.01 * (1 + cos(pi / 4)) / 2)
    world.train(alone, method, run, CUT.model_copy(update={"schedule_steps": None}))
    assert logged(alone, "learning_rate") != logged(cut, "learning_rate")
    one, other = read_adapter(cut), read_adapter(alone)
    assert any(not bool((one[key] == other[key]).all()) for key in one)
