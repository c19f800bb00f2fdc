"""Damage to what a killed stage left for its next try: checkpoints, journals, partial answers. None of it is read."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.core.digests import build_manifest
from tasks.core.events import Event, listening
from tasks.core.results import RunInfo
from tasks.core.sections import TrainSpec
from tasks.engines.interface import Completion, Deliver, Request, Sampling
from tasks.engines.journal import Journal, append_lines, complete, read_lines
from tasks.methods.rift import Rift
from tests.lab.world import World, make_graded, write_base

TRAIN = TrainSpec(lr=1e-2, steps=5, batch_size=8, checkpoint_steps=2)
NAMES = ("optimizer.pt", "adapter_model.safetensors", "trainer_state.json", "rng_state.pth", "colinear.json")


@pytest.fixture
def told() -> Iterator[list[str]]:
    found: list[str] = []

    def hear(event: Event) -> None:
        found.append(event.note)

    with listening(hear):
        yield found


# --- checkpoints -----------------------------------------------------------------------------------------------------


class Trained:
    """Two trainings of other data orders that were killed after step 4, and what they give undisturbed."""

    def __init__(self, folder: Path) -> None:
        rollouts = folder / "rollouts.parquet"
        make_graded().write_parquet(rollouts)
        self.folder, self.world = folder, World(write_base(folder / "base"), rollouts)
        self.whole = self.train(folder / "whole", folder / "kept" / "mine")
        self.train(folder / "other", folder / "kept" / "another", data_seed=8)

    def train(self, out: Path, checkpoints: Path, data_seed: int = 7, **options: Any) -> dict[str, Any]:
        run = RunInfo("run", "rift", seed=3, data_seed=data_seed, lr=1e-2)
        return self.world.train(out, Rift(), run, TRAIN, checkpoints=checkpoints, **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Trained(tmp_path_factory.mktemp("trained"))
    torch.set_num_threads(threads)


def flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def truncate(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def unlink(path: Path, rng: random.Random) -> None:
    path.unlink()


@pytest.mark.parametrize("draw", range(9))
def test_a_training_goes_on_from_the_sound_checkpoint_to_the_same_bytes(
    trained: Trained, tmp_path: Path, told: list[str], draw: int
) -> None:
    rng = random.Random(f"checkpoint {draw}")
    checkpoints = tmp_path / "mine"
    shutil.copytree(trained.folder / "kept" / "mine", checkpoints)
    name = rng.choice(NAMES)
    (flip, truncate, unlink)[draw % 3](checkpoints / "checkpoint-4" / name, rng)
    if both := draw >= 6:
        (flip, truncate, unlink)[draw % 3](checkpoints / "checkpoint-2" / rng.choice(NAMES), rng)
    steps: list[int] = []
    found = trained.train(tmp_path / "out", checkpoints, progress=lambda done, *_: steps.append(done))
    assert steps == ([1, 2, 3, 4, 5] if both else [3, 4, 5])
    assert found == trained.whole
    assert build_manifest(tmp_path / "out") == build_manifest(trained.folder / "whole")
    goes_on = "begins anew" if both else "goes on from checkpoint-2"
    problem = "is missing" if draw % 3 == 2 else "does not have its recorded digest"
    assert told[0] == f"checkpoint-4: {name} {problem}; {goes_on}"
    assert len(told) == 1 + both


def test_checkpoints_of_two_trainings_that_changed_places_are_not_gone_on_from(
    trained: Trained, tmp_path: Path, told: list[str]
) -> None:
    """Each is whole, and its manifest agrees; it is the other one's."""
    shutil.copytree(trained.folder / "kept" / "another", tmp_path / "mine")
    assert trained.train(tmp_path / "out", tmp_path / "mine") == trained.whole
    assert build_manifest(tmp_path / "out") == build_manifest(trained.folder / "whole")
    assert told == [f"checkpoint-{step}: it is step {step} of another training; begins anew" for step in (4, 2)]


def test_a_checkpoint_under_another_steps_name_is_none(trained: Trained, tmp_path: Path, told: list[str]) -> None:
    shutil.copytree(trained.folder / "kept" / "mine", tmp_path / "mine")
    for name in ("checkpoint-4", "checkpoint-4.manifest.json"):
        shutil.move(tmp_path / "mine" / name, tmp_path / "mine" / name.replace("4", "3"))
    assert trained.train(tmp_path / "out", tmp_path / "mine") == trained.whole
    assert told == ["checkpoint-3: it is step 4 of another training; goes on from checkpoint-2"]


def test_one_that_was_being_written_is_no_damage(trained: Trained, tmp_path: Path, told: list[str]) -> None:
    shutil.copytree(trained.folder / "kept" / "mine", tmp_path / "mine")
    (tmp_path / "mine" / "checkpoint-4.manifest.json").unlink()  # the seal comes last
    assert trained.train(tmp_path / "out", tmp_path / "mine") == trained.whole
    assert told == []


# --- journals and partial answers ------------------------------------------------------------------------------------


REQUESTS = [Request(str(i), f"question {i}", (i,), i) for i in range(12)]
ANSWERS = {
    request.id: Completion(f"It is {i} of 12", (i, i + 1), (-0.5, -float(i)), "stop", "thought" if i % 2 else None)
    for i, request in enumerate(REQUESTS)
}


class Teacher:
    """An engine that is asked again for what was damaged."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __enter__(self) -> Teacher:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def complete(self, requests: Any, sampling: Sampling, deliver: Deliver) -> None:
        for request in requests:
            self.asked.append(request.id)
            deliver(request, ANSWERS[request.id])


def journal(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = Journal(file)
    for request in REQUESTS:
        kept.keep(request, ANSWERS[request.id])
    return file


@pytest.mark.parametrize("draw", range(200))
def test_a_flipped_bit_anywhere_in_a_journal_reaches_no_completion(tmp_path: Path, told: list[str], draw: int) -> None:
    file = journal(tmp_path / "journal.jsonl")
    flip(file, random.Random(f"journal {draw}"))
    teacher, again = Teacher(), Journal(file)
    complete(teacher, REQUESTS, Sampling(9), again, lambda *_: None)
    assert again.read([request.id for request in REQUESTS]) == list(ANSWERS.values())
    assert len(teacher.asked) <= 2  # a flipped line break joins two lines
    if teacher.asked and told:
        assert told == [f"1 line of {file}; what they held is asked for again"]


def test_a_truncated_journal_costs_its_last_line(tmp_path: Path, told: list[str]) -> None:
    file = journal(tmp_path / "journal.jsonl")
    file.write_bytes(file.read_bytes()[:-30])
    teacher, again = Teacher(), Journal(file)
    complete(teacher, REQUESTS, Sampling(9), again, lambda *_: None)
    assert teacher.asked == ["11"]
    assert again.read(["11"]) == [ANSWERS["11"]]
    assert told == []  # as a kill leaves it


def test_another_stages_journal_is_not_read(tmp_path: Path, told: list[str]) -> None:
    """Two journals whose files changed places: every line is whole, and was said by another teacher."""
    file = journal(tmp_path / ("a" * 64 + ".jsonl"))
    file.rename(tmp_path / ("b" * 64 + ".jsonl"))
    assert "0" not in Journal(tmp_path / ("b" * 64 + ".jsonl"))
    assert told == [f"12 lines of {tmp_path / ('b' * 64)}.jsonl; what they held is asked for again"]


def test_lines_of_earlier_versions_have_no_digest_and_are_read(tmp_path: Path, told: list[str]) -> None:
    row = {"id": "0", "text": "It is", "ids": None, "logprobs": None, "finish_reason": "stop"}
    (tmp_path / "journal.jsonl").write_text(f"\n{json.dumps(row)}")
    assert Journal(tmp_path / "journal.jsonl").read(["0"]) == [Completion("It is", None, None, "stop")]
    assert told == []


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "wrong becomes right": lambda content: content.replace(b"false", b"true ", 1),
    "a word": lambda content: content.replace(b"seven", b"eight", 1),
    "the digest": lambda content: content[:-3] + b'0"}' if content[-3:-2] != b"0" else content[:-3] + b'1"}',
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_partial_answer_is_asked_again(tmp_path: Path, told: list[str], change: str) -> None:
    folder = tmp_path / ("c" * 64)
    folder.mkdir()
    append_lines(folder / "0-1.jsonl", [{"problem_id": "p", "completion": "seven", "correct": False}])
    file = folder / "0-1.jsonl"
    file.write_bytes(CHANGES[change](file.read_bytes()))
    assert list(read_lines(file)) == []
    assert told == [f"1 line of {file}; what they held is asked for again"]
