"""Trainings that are killed: with SIGKILL, in worker processes as a study has them, and gone on with."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer

from tasks.core.digests import build_manifest
from tasks.core.errors import StageError
from tasks.core.results import LocalTeacher
from tasks.core.sections import TrainSpec
from tasks.methods import Method
from tasks.methods.distillation import Distillation
from tasks.methods.dpo import Dpo
from tasks.methods.kto import Kto
from tasks.methods.offline_grpo import OfflineGrpo
from tasks.methods.online_grpo import OnlineGrpo
from tasks.methods.rift import Rift
from tasks.methods.sft import Sft
from tasks.methods.sft_dpo import SftDpo
from tasks.training.checkpoints import KEPT, LOG_COPY, STATE, Progressed, newest, seal
from tasks.training.log import Diverged
from tasks.training.train import train_adapter
from tasks.workers import devices
from tasks.workers.devices import WorkerDied, run_pinned
from tests.lab.world import LORA, World
from tests.unit.training.conftest import RUN

TRAIN = TrainSpec(lr=1e-2, steps=7, batch_size=8, checkpoint_steps=2)


# --- what is a checkpoint --------------------------------------------------------------------------------------------


def write_checkpoint(folder: Path, step: int) -> Path:
    """A sealed folder with two files and a log of ``step`` lines."""
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "weights").write_bytes(bytes(100))
    log = folder / "log"
    log.write_text("{}\n" * step)
    seal(path, Progressed(step, [8] * step, list(range(step)), 8 * step, {"examples": 2}, []), log)
    return path


def steps(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("checkpoint-*"))


def test_the_newest_is_found_with_its_state_and_log(tmp_path: Path) -> None:
    assert newest(tmp_path / "nothing") is None
    write_checkpoint(tmp_path, 9)
    path = write_checkpoint(tmp_path, 10)  # as text, 10 comes before 9
    found = newest(tmp_path)
    assert found is not None
    assert found[0] == path
    assert found[1] == Progressed(10, [8] * 10, list(range(10)), 80, {"examples": 2}, [], owner=tmp_path.name)
    assert (path / LOG_COPY).read_text() == "{}\n" * 10


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8):
        write_checkpoint(tmp_path, step)
    assert KEPT == 2
    assert steps(tmp_path) == [
        "checkpoint-6",
        "checkpoint-6.manifest.json",
        "checkpoint-8",
        "checkpoint-8.manifest.json",
    ]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: (path / "weights").write_bytes(bytes(99) + b"1"),
        lambda path: (path / "weights").unlink(),
        lambda path: (path / "more").touch(),
        lambda path: path.with_name("checkpoint-4.manifest.json").unlink(),  # killed before the seal
        lambda path: path.with_name("checkpoint-4.manifest.json").write_text("{"),
    ],
    ids=["changed", "missing", "added", "unsealed", "torn"],
)
def test_what_is_not_sound_is_passed_over_and_deleted(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    older = write_checkpoint(tmp_path, 2)
    damage(write_checkpoint(tmp_path, 4))
    found = newest(tmp_path)
    assert found is not None
    assert found[0] == older
    assert steps(tmp_path) == ["checkpoint-2", "checkpoint-2.manifest.json"]


# --- trainings that are killed ---------------------------------------------------------------------------------------


class Killer:
    """Progress that sends the worker process a signal when it reports a step."""

    def __init__(self, step: int, number: int) -> None:
        self.step, self.number = step, number
        self.reported: list[int] = []

    def __call__(self, done: int, total: int, note: str = "") -> None:
        if total == 0:
            return
        self.reported.append(done)
        if done == self.step:
            (worker,) = devices._living
            os.kill(worker.pid, self.number)


def arguments(world: World, method: Method, train: TrainSpec, out: Path, checkpoints: Path) -> dict[str, Any]:
    out.mkdir(parents=True)
    return {
        "base": world.base, "rollouts": world.rollouts, "method": method, "train": train, "lora": LORA, "info": RUN,
        "pad_token": None, "out": out, "checkpoints": checkpoints,
        "teacher": LocalTeacher(world.base, in_style=True) if method.from_teacher else None,
    }  # fmt: skip


CASES = {
    "sft": (Sft(), TRAIN.model_copy(update={"micro_batch_size": 4})),
    "grpo": (OfflineGrpo(clip=0.2), TRAIN.model_copy(update={"packing": "on", "micro_batch_tokens": 50})),
    "dpo": (Dpo(), TRAIN.model_copy(update={"gradient_checkpointing": "on"})),
    "kto": (Kto(), TRAIN),
    "online": (OnlineGrpo(samples=4, max_new_tokens=6), TRAIN),
    "distillation": (Distillation(max_new_tokens=6), TRAIN),
}


@pytest.mark.slow
@pytest.mark.usefixtures("state")
@pytest.mark.parametrize("case", CASES)
def test_a_killed_training_goes_on_to_the_same_bytes(world: World, tmp_path: Path, case: str) -> None:
    """kill -9 of the worker after step 5; the next worker begins at step 4 and ends where nobody had been killed."""
    method, train = CASES[case]
    checkpoints, log = tmp_path / "checkpoints", tmp_path / "worker.log"
    whole = train_adapter(**arguments(world, method, train, tmp_path / "whole", tmp_path / "other"))
    killer = Killer(5, signal.SIGKILL)
    with pytest.raises(WorkerDied, match="SIGKILL"):
        run_pinned(
            train_adapter, arguments(world, method, train, tmp_path / "killed", checkpoints), log=log, progress=killer
        )
    assert "checkpoint-4.manifest.json" in steps(checkpoints)
    assert "checkpoint-6" not in steps(checkpoints)
    watcher = Killer(0, 0)
    summary = run_pinned(
        train_adapter, arguments(world, method, train, tmp_path / "resumed", checkpoints), log=log, progress=watcher
    )
    assert watcher.reported == [5, 6, 7]
    assert summary == whole
    assert build_manifest(tmp_path / "resumed") == build_manifest(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.usefixtures("state")
def test_a_training_of_two_phases_killed_in_its_second_goes_on_to_the_same_bytes(world: World, tmp_path: Path) -> None:
    """Four steps of SFT, four of DPO, a checkpoint every two steps of either but the last; kill -9 after step 7."""
    train = TRAIN.model_copy(update={"steps": 8})
    checkpoints, log = tmp_path / "checkpoints", tmp_path / "worker.log"
    whole = train_adapter(**arguments(world, SftDpo(), train, tmp_path / "whole", tmp_path / "other"))
    killer, watcher = Killer(7, signal.SIGKILL), Killer(0, 0)
    with pytest.raises(WorkerDied, match="SIGKILL"):
        run_pinned(
            train_adapter, arguments(world, SftDpo(), train, tmp_path / "killed", checkpoints), log=log, progress=killer
        )
    summary = run_pinned(
        train_adapter, arguments(world, SftDpo(), train, tmp_path / "resumed", checkpoints), log=log, progress=watcher
    )
    assert watcher.reported == [3, 4, 7, 8]  # the last steps of SFT are done again, since nothing else has its end
    assert summary == whole
    assert build_manifest(tmp_path / "resumed") == build_manifest(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.usefixtures("state")
def test_sigterm_leaves_a_checkpoint_of_the_step_under_way(world: World, tmp_path: Path) -> None:
    """And the process dies of the signal: the driver sees what it would have seen, and may try again."""
    checkpoints, log = tmp_path / "checkpoints", tmp_path / "worker.log"
    train = TRAIN.model_copy(update={"checkpoint_steps": 100, "steps": 60})
    killer = Killer(3, signal.SIGTERM)
    with pytest.raises(WorkerDied, match="SIGTERM"):
        run_pinned(
            train_adapter, arguments(world, Sft(), train, tmp_path / "killed", checkpoints), log=log, progress=killer
        )
    found = newest(checkpoints)
    assert found is not None
    assert 3 <= found[1].step < 60  # the signal takes a moment, in which a few steps of milliseconds pass
    assert killer.reported[-1] == found[1].step
    assert len(found[1].rows) == 8 * found[1].step


@pytest.mark.slow
@pytest.mark.usefixtures("state")
def test_a_stopped_study_leaves_a_checkpoint_of_the_step_under_way(world: World, tmp_path: Path) -> None:
    """Ctrl-C in the driver comes down to `devices.stop`: a training writes down how far it is before it ends."""
    checkpoints, log = tmp_path / "checkpoints", tmp_path / "worker.log"
    train = TRAIN.model_copy(update={"checkpoint_steps": 1000, "steps": 2000})
    third_step, failures = threading.Event(), []

    def work() -> None:
        given = arguments(world, Sft(), train, tmp_path / "stopped", checkpoints)
        try:
            run_pinned(train_adapter, given, log=log, progress=lambda done, *_: third_step.set() if done > 2 else None)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert third_step.wait(60)
    try:
        devices.stop()
        thread.join(60)
    finally:
        devices.allow()
    assert [type(error) for error in failures] == [devices.Stopped]
    found = newest(checkpoints)
    assert found is not None
    assert 3 <= found[1].step < 1000
    assert len(found[1].rows) == 8 * found[1].step


def test_a_damaged_checkpoint_costs_steps_and_no_correctness(world: World, tmp_path: Path) -> None:
    """The older one is gone on from; the bytes are those of a run without checkpoints."""
    checkpoints = tmp_path / "checkpoints"
    plain = arguments(world, Rift(), TRAIN, tmp_path / "plain", checkpoints)
    whole = train_adapter(**{**plain, "checkpoints": None})
    train_adapter(**arguments(world, Rift(), TRAIN, tmp_path / "first", checkpoints))
    assert [name for name in steps(checkpoints) if "." not in name] == ["checkpoint-4", "checkpoint-6"]
    (checkpoints / "checkpoint-6" / "optimizer.pt").write_bytes(b"")
    seen: list[int] = []
    again = arguments(world, Rift(), TRAIN, tmp_path / "again", checkpoints)
    assert train_adapter(**again, progress=lambda done, total, note="": seen.append(done)) == whole
    assert seen == [5, 6, 7]
    assert build_manifest(tmp_path / "again") == build_manifest(tmp_path / "plain")


def test_what_ran_out_of_memory_before_is_remembered(world: World, tmp_path: Path) -> None:
    """Limits and warnings of a checkpoint hold for the run that goes on from it."""
    checkpoints = tmp_path / "checkpoints"
    train_adapter(**arguments(world, Rift(), TRAIN, tmp_path / "first", checkpoints))
    found = newest(checkpoints)
    assert found is not None
    path, state = found
    changed = {"examples": 3, "tokens": None, "packed": False, "checkpointing": False}
    log = tmp_path / "log"
    log.write_bytes((path / LOG_COPY).read_bytes())
    (path / STATE).unlink()
    seal(path, replace(state, limits=changed, notes=["told before"]), log)
    again = train_adapter(**arguments(world, Rift(), TRAIN, tmp_path / "again", checkpoints))
    assert again["warning"] == "told before"
    resumed, _ = newest(checkpoints) or (None, None)
    assert resumed is not None
    assert json.loads((resumed / STATE).read_text())["limits"] == changed


def test_a_training_that_diverges_leaves_neither_checkpoint_nor_adapter(world: World, tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    train = TrainSpec(steps=5, batch_size=8, scheduler="constant", warmup=0.0, checkpoint_steps=1)
    given = arguments(world, Sft(), train, tmp_path / "out", checkpoints)
    with pytest.raises(Diverged, match=r"^training diverged: loss is nan at step 2; lower train\.lr$"):
        train_adapter(**{**given, "info": replace(RUN, lr=1e30)})
    assert not checkpoints.exists()
    assert not (tmp_path / "out" / "adapter").exists()


def test_a_training_that_ran_out_of_memory_keeps_its_checkpoints(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been another process on the GPU: the next try goes on from the newest."""
    checkpoints = tmp_path / "checkpoints"
    plain, passes = Trainer.training_step, []

    def training_step(self: Any, *given: Any) -> Any:
        passes.append(1)
        if len(passes) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return plain(self, *given)

    monkeypatch.setattr(Trainer, "training_step", training_step)
    with pytest.raises(StageError, match=r"^out of memory at step 6 with a single example"):
        train_adapter(**arguments(world, Sft(), TRAIN, tmp_path / "out", checkpoints))
    found = newest(checkpoints)
    assert found is not None
    assert found[1].step == 4
