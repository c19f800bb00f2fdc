"""Adapters of chosen steps: those of trainings that ended there, at no change to the training, and none is lost."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from tasks.core.digests import build_manifest
from tasks.core.sections import LoraSpec, TrainSpec
from tasks.core.stages import TRAIN as STAGE
from tasks.methods.dpo import Dpo
from tasks.methods.online_grpo import OnlineGrpo
from tasks.methods.sft import Sft
from tasks.methods.sft_dpo import SftDpo
from tasks.training.kept import copy_kept, forget, is_kept
from tasks.training.train import train_adapter
from tasks.workers.devices import WorkerDied, run_pinned
from tests.lab.world import World
from tests.unit.training.test_checkpoints import Killer, arguments

KEEP = (6, 3, 5)
TRAIN = TrainSpec(lr=1e-2, steps=7, batch_size=8, checkpoint_steps=2, keep_steps=KEEP)
PLAIN = TRAIN.model_copy(update={"keep_steps": ()})


def bytes_of(folder: Path, step: int) -> object:
    assert is_kept(folder, step)
    return build_manifest(folder / f"step-{step}")


def test_keeping_changes_no_bit_and_what_is_kept_is_a_training_that_ended_there(world: World, tmp_path: Path) -> None:
    """With dropout, whose draws a step more or less would move."""
    dropped: dict[str, Any] = {"lora": LoraSpec(r=4, alpha=8.0, dropout=0.3)}
    plain = train_adapter(**arguments(world, Sft(), PLAIN, tmp_path / "plain", tmp_path / "a") | dropped)
    kept = {"kept": tmp_path / "kept"}
    assert (
        train_adapter(**arguments(world, Sft(), TRAIN, tmp_path / "keeping", tmp_path / "b") | dropped | kept) == plain
    )
    assert build_manifest(tmp_path / "keeping") == build_manifest(tmp_path / "plain")
    for step in KEEP:
        short = PLAIN.model_copy(update={"steps": step, "schedule_steps": 7})
        train_adapter(**arguments(world, Sft(), short, tmp_path / f"to-{step}", tmp_path / f"c{step}") | dropped)
        assert bytes_of(tmp_path / "kept", step) == build_manifest(tmp_path / f"to-{step}" / "adapter")


def test_a_training_can_end_with_the_last_step_that_is_kept(world: World, tmp_path: Path) -> None:
    steps: list[int] = []
    kept = {"kept": tmp_path / "kept"}
    train_adapter(**arguments(world, Dpo(), TRAIN, tmp_path / "whole", tmp_path / "a") | kept)
    again = {"kept": tmp_path / "again", "until_kept": True, "progress": lambda done, *_: steps.append(done)}
    short = TRAIN.model_copy(update={"keep_steps": (3, 5)})
    summary = train_adapter(**arguments(world, Dpo(), short, tmp_path / "short", tmp_path / "b") | again)
    assert (steps, summary["steps"]) == ([1, 2, 3, 4, 5], 5)
    assert [bytes_of(tmp_path / "again", step) for step in (3, 5)] == [
        bytes_of(tmp_path / "kept", step) for step in (3, 5)
    ]
    assert not is_kept(tmp_path / "again", 6)


def test_steps_are_counted_over_phases(world: World, tmp_path: Path) -> None:
    """Four of SFT, three of DPO: what is kept at 3 is SFT's, at 6 that of the whole after two steps of DPO."""
    train = TRAIN.model_copy(update={"keep_steps": (3, 6)})
    kept, shorter = tmp_path / "kept", tmp_path / "shorter"
    train_adapter(**arguments(world, SftDpo(), train, tmp_path / "out", tmp_path / "a"), kept=kept)
    for last in (3, 6):
        steps: list[int] = []
        given = arguments(world, SftDpo(), train, tmp_path / f"out{last}", tmp_path / f"b{last}")
        given["train"] = train.model_copy(update={"keep_steps": (last,)})
        train_adapter(**given, kept=shorter, until_kept=True, progress=lambda done, *_, steps=steps: steps.append(done))
        assert max(steps) == last
        assert bytes_of(shorter, last) == bytes_of(kept, last)
    sft = PLAIN.model_copy(update={"steps": 4, "keep_steps": (3,)})
    train_adapter(**arguments(world, Sft(), sft, tmp_path / "sft", tmp_path / "c"), kept=tmp_path / "of-sft")
    assert bytes_of(tmp_path / "of-sft", 3) == bytes_of(kept, 3)


@pytest.mark.slow
@pytest.mark.usefixtures("state")
def test_a_training_that_is_killed_loses_no_step(world: World, tmp_path: Path) -> None:
    """kill -9 after step 5, on from the checkpoint of step 4: 3 is there, 5 may be there or torn, 6 is not."""
    checkpoints, kept, log = tmp_path / "checkpoints", tmp_path / "kept", tmp_path / "worker.log"
    whole = {"kept": tmp_path / "whole-kept"}
    train_adapter(**arguments(world, Sft(), TRAIN, tmp_path / "whole", tmp_path / "other") | whole)
    killed = arguments(world, Sft(), TRAIN, tmp_path / "killed", checkpoints) | {"kept": kept}
    with pytest.raises(WorkerDied, match="SIGKILL"):
        run_pinned(train_adapter, killed, log=log, progress=Killer(5, signal.SIGKILL))
    assert is_kept(kept, 3)
    assert not is_kept(kept, 6)
    watcher = Killer(0, 0)
    resumed = arguments(world, Sft(), TRAIN, tmp_path / "resumed", checkpoints) | {"kept": kept}
    run_pinned(train_adapter, resumed, log=log, progress=watcher)
    assert watcher.reported == [5, 6, 7]
    assert [bytes_of(kept, step) for step in KEEP] == [bytes_of(whole["kept"], step) for step in KEEP]


def test_what_is_not_whole_counts_as_missing(world: World, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    short = TRAIN.model_copy(update={"keep_steps": (1, 2, 3, 4)})
    given = {"kept": kept, "until_kept": True}
    train_adapter(**arguments(world, Sft(), short, tmp_path / "out", tmp_path / "checkpoints") | given)
    copy_kept(kept, 1, tmp_path / "adapter")
    assert build_manifest(tmp_path / "adapter") == bytes_of(kept, 1)
    (kept / "step-2.manifest.json").unlink()
    (kept / "step-3" / "adapter_model.safetensors").write_bytes(b"")
    (kept / "step-4.manifest.json").write_text("{")
    assert [is_kept(kept, step) for step in (1, 2, 3, 4)] == [True, False, False, False]
    assert sorted(path.name for path in kept.iterdir()) == ["step-1", "step-1.manifest.json"]
    forget(kept, [9])
    assert is_kept(kept, 1)
    forget(kept, [1])
    assert not kept.exists()


def test_a_last_step_is_the_training_s_own_and_a_shorter_method_keeps_fewer() -> None:
    assert Sft().kept(TRAIN) == [3, 5, 6]
    assert Sft().kept(TRAIN.model_copy(update={"steps": 5})) == [3]
    assert OnlineGrpo(steps=4, samples=4).kept(TRAIN) == [3]


def test_what_is_kept_is_in_no_training_s_key() -> None:
    """Digest by the version before steps were kept, of its default settings."""
    digest = "8fa85b4162bbd9ef16876872c6b7d43fe26f815f5c12f9e6b825d4320db0537e"
    for keep in ((), (5, 10)):
        train = TrainSpec(keep_steps=keep, lr=0.5, checkpoint_steps=7)
        assert STAGE.key({"rollouts": "r"}, {"train": train.identity}).digest == digest
