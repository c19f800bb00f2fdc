"""Pretraining: the same bytes every time, the same numbers in one process or two, and a record that is true."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tasks.core.errors import InputError
from tasks.core.sections import TinySpec
from tasks.models.tiny import model as tiny
from tasks.models.tiny.corpus import batch_share
from tasks.models.tiny.model import Trained, choose_start, pretrain
from tasks.models.tiny.network import as_vector, build_network
from tasks.models.tiny.ranks import Ranks
from tasks.models.tokenizer import build_tokenizer
from tasks.problems.overlap import question_key
from tasks.problems.synthetic import dev_problems, pretraining_example, vocabulary

SPEC = TinySpec(
    hidden=32,
    layers=1,
    heads=2,
    kv_heads=1,
    intermediate=32,
    max_operand=9,
    batch_size=8,
    max_steps=12,
    branch_steps=0,
    dev_problems=20,
)
RANK = """
import os, sys
from pathlib import Path
from tasks.models.tiny.model import pretrain
from tasks.core.sections import TinySpec
spec, out, rank, url = sys.argv[1:]
pretrain(TinySpec.model_validate_json(spec), Path(out), rank=int(rank), world=2, rendezvous=url)
os._exit(0)  # all is written; gloo's threads can abort an interpreter that is shutting down (devices ignores that too)
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone")
    pretrain(SPEC, out)
    return out


def record(out: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((out / "pretrain.json").read_text())
    return loaded


def contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.mark.skipif(torch.cuda.is_available(), reason="bit-equality is promised on the CPU")
def test_the_same_bytes_twice(alone: Path, tmp_path: Path) -> None:
    torch.manual_seed(123)  # the global generator must not matter
    pretrain(SPEC, tmp_path)
    assert contents(tmp_path) == contents(alone)


@pytest.mark.slow
def test_two_processes_compute_what_one_does(alone: Path, tmp_path: Path) -> None:
    url = (tmp_path / "rendezvous").as_uri()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    arguments = [SPEC.model_dump_json(), str(tmp_path / "out")]
    ranks = [
        subprocess.Popen([sys.executable, "-c", RANK, *arguments, str(rank), url], env=environment) for rank in (0, 1)
    ]
    assert [rank.wait(timeout=240) for rank in ranks] == [0, 0]
    one, two = record(alone), record(tmp_path / "out")
    assert two["processes"] == 2
    assert two["examples"] == one["examples"] == 96  # 12 steps of 8
    assert np.array_equal(np.load(tmp_path / "out" / "corpus_keys.npy"), np.load(alone / "corpus_keys.npy"))
    # Losses of about 4 nats; halves of a batch are packed differently, so bfloat16 sums round differently.
    assert [step for step, _ in two["losses"]] == [step for step, _ in one["losses"]]
    assert two["losses"][-1][1] == pytest.approx(one["losses"][-1][1], rel=2e-3)


def test_what_is_written_can_be_loaded_and_is_the_network_described(alone: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(alone / "student")
    for name in ("student", "teacher"):
        model = AutoModelForCausalLM.from_pretrained(alone / name)
        assert model.dtype == torch.float32
        assert model.config.vocab_size == len(tokenizer)
        assert model.config.eos_token_id == tokenizer.eos_token_id
        assert sum(p.numel() for p in model.parameters()) == record(alone)["parameters"]


def test_the_record_says_what_was_consumed(alone: Path) -> None:
    keys = {question_key(pretraining_example(SPEC, i).question) for i in range(12 * 8)}
    assert set(np.load(alone / "corpus_keys.npy").tolist()) == keys
    content = record(alone)
    assert content["questions"] == len(keys)
    assert content["dev_overlap"] == 0
    assert content["steps"] == 12
    assert content["teacher_reached"] is False
    assert content["start_near"] is False  # twelve steps teach nothing, and it says so
    assert content["branch_steps"] == 0
    assert content["branch_loss"] is None
    assert content["style_masses"] == []
    assert 0 < content["style_mass"] < 1
    assert content["student_asked_accuracy"] == 0


def test_no_path_in_the_output(alone: Path) -> None:
    for name, content in contents(alone).items():
        assert str(alone).encode() not in content, name


def test_loss_falls(tmp_path: Path) -> None:
    pretrain(SPEC.model_copy(update={"max_steps": 50}), tmp_path)
    losses = [loss for _, loss in record(tmp_path)["losses"]]
    assert len(losses) == 2  # steps 25 and 50
    assert losses[1] < losses[0] - 0.3


def test_progress_counts_steps(tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    pretrain(SPEC.model_copy(update={"max_steps": 10}), tmp_path, progress=lambda *args: seen.append(args))
    assert [done for done, _, _ in seen] == list(range(1, 11))
    assert seen[-1][1] == 10
    assert seen[-1][2].startswith("loss ")
    assert ", dev 0.0" in seen[-1][2]


def test_ranks_share_a_batch_without_gap_or_repeat() -> None:
    tokenizer = build_tokenizer(vocabulary(), max_length=256)
    whole = batch_share(SPEC, tokenizer, 3, 0, 1, torch.device("cpu"))[1]
    halves = [batch_share(SPEC, tokenizer, 3, rank, 2, torch.device("cpu"))[1] for rank in (0, 1)]
    assert [key for pair in zip(*halves, strict=True) for key in pair] == whole


def test_the_student_starts_at_the_nearest_snapshot_that_bisection_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = build_tokenizer(vocabulary(), max_length=256)
    problems = dev_problems(SPEC)
    average = build_network(SPEC, tokenizer, 256)
    weights = as_vector(average)
    # snapshot s is recognised by its constant weights s; right answers of 20: 2 4 6 8 10 12 14 16
    trained = Trained(snapshots={step: torch.full_like(weights, step) for step in range(10, 90, 10)})
    monkeypatch.setattr(tiny, "exact_matches", lambda model, batches: round(float(weights[0]) / 10) * 2)
    spec = SPEC.model_copy(update={"branch_accuracy": 0.62})
    chosen, seen = choose_start(spec, tokenizer, problems, average, weights, trained, Ranks(0, 1, torch.device("cpu")))
    # target .62: nearest of .4, .6 and .7
    assert chosen == 60
    # 40 (.4) -> 60 (.6) -> 70 (.7): then nothing lies between
    assert seen == pytest.approx({40: 0.4, 60: 0.6, 70: 0.7})


def test_batch_that_does_not_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"batch_size: 9 .* 2 processes"):
        pretrain(SPEC.model_copy(update={"batch_size": 9}), tmp_path, world=2, rendezvous="file:///unused")


def test_processes_without_a_meeting_point_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="rendezvous"):
        pretrain(SPEC, tmp_path, world=2)


@pytest.mark.slow
def test_the_smoke_world_is_learnt(tmp_path: Path) -> None:
    spec = TinySpec(
        hidden=64,
        layers=2,
        intermediate=256,
        max_operand=10,
        lr=4e-3,
        snapshot_every=5,
        step_mix=(1, 0, 0),
        hard_steps=(3, 3),
        max_steps=800,
        teacher_accuracy=0.9,
        branch_steps=0,
        dev_problems=200,
    )
    result = SimpleNamespace(**pretrain(spec, tmp_path))
    assert result.teacher_reached
    assert result.teacher_accuracy >= 0.88
    assert result.start_near
