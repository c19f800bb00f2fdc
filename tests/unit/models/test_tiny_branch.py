"""The student's branch: the mass of the other style as measured and as steered, and what is refused in the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.core.errors import InputError
from tasks.core.results import no_progress
from tasks.core.sections import TinySpec
from tasks.models.tiny import branch as tiny_branch
from tasks.models.tiny import model as tiny
from tasks.models.tiny.branch import branch, check_student, steered, style_mass
from tasks.models.tiny.corpus import asked, encode, opening_batches, prompt_ids
from tasks.models.tiny.learner import MAX_LENGTH
from tasks.models.tiny.model import pretrain
from tasks.models.tiny.network import as_vector, build_network
from tasks.models.tiny.ranks import Ranks
from tasks.models.tokenizer import build_tokenizer
from tasks.problems.overlap import question_key
from tasks.problems.synthetic import dev_problems, pretraining_example, solve, vocabulary
from tests.unit.models.test_tiny import SPEC as UNBRANCHED

SPEC = UNBRANCHED.model_copy(update={"branch_steps": 30, "branch_asked": 0.25, "style_mass": 0.2})
ALONE = Ranks(0, 1, torch.device("cpu"))
RANK = """
import os, sys
from pathlib import Path
from tasks.models.tiny import model as tiny
from tasks.core.sections import TinySpec
spec, out, rank, url = sys.argv[1:]
tiny.check_student = lambda spec, accuracy: None
tiny.pretrain(TinySpec.model_validate_json(spec), Path(out), rank=int(rank), world=2, rendezvous=url)
os._exit(0)  # all is written; gloo's threads can abort an interpreter that is shutting down (devices ignores that too)
"""


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    monkeypatch.setattr("tasks.models.tiny.network.native_bfloat16", lambda where: False)
    model: torch.nn.Module = build_network(SPEC, build_tokenizer(vocabulary(), max_length=MAX_LENGTH), MAX_LENGTH)
    return model


def test_the_mass_is_the_softmax_share_of_the_opening_token(network: torch.nn.Module) -> None:
    tokenizer = build_tokenizer(vocabulary(), max_length=MAX_LENGTH)
    problems = dev_problems(SPEC)
    start = tokenizer.convert_tokens_to_ids("start")
    shares = []
    for problem in problems:  # one by one, unpacked, the softmax written out
        ids = torch.tensor([prompt_ids(tokenizer, problem.question)])
        with torch.no_grad():
            logits = network(input_ids=ids).logits[0, -1].double()
        shares.append(float(logits[start].exp() / logits.exp().sum()))
    batches = opening_batches(tokenizer, problems, torch.device("cpu"))
    assert style_mass(network, batches, len(problems), ALONE) == pytest.approx(np.mean(shares), rel=1e-5)


def test_style_b_alone_begins_with_the_opening_token() -> None:
    tokenizer = build_tokenizer(vocabulary(), max_length=MAX_LENGTH)
    start = tokenizer.convert_tokens_to_ids("start")
    for problem in dev_problems(TinySpec(dev_problems=200)):
        first = {style: encode(tokenizer, asked(problem, style), solve(problem, style)).completion[0] for style in "ab"}  # type: ignore[arg-type]
        assert first["b"] == start
        assert tokenizer.decode([first["a"]]).isdigit()


def test_a_right_mass_is_left_alone_and_a_wrong_one_answered_by_the_inverse_odds() -> None:
    assert steered(0.2, [0.2]) == pytest.approx(0.2)
    assert steered(0.2, [0.2, 0.2, 0.2]) == pytest.approx(0.2)
    # odds: target 1/4, measured 1 (four times too large), so 1/16: a share of 1/17
    assert steered(0.2, [0.5]) == pytest.approx(1 / 17)
    # measured 1/9 (p = .1) is 4/9 of the target's: (1/4)**2 / (1/9) = 9/16, a share of 9/25
    assert steered(0.2, [0.1]) == pytest.approx(9 / 25)
    # the error of before, four times too large, counts by its root: 1/4 / 2 = 1/8, a share of 1/9
    assert steered(0.2, [0.5, 0.2]) == pytest.approx(1 / 9)
    assert steered(0.2, [0.5, 0.5, 0.2]) == pytest.approx(1 / 17)
    assert steered(0.2, [0.001]) == 0.5
    assert steered(0.2, [0.0]) == 0.5


def test_steering_a_calibrated_model_meets_the_target() -> None:
    """A model whose log-odds go half the way to those of its examples less .4 from one measurement to the next."""
    odds, masses = 0.5, [1 / 3]
    for _ in range(20):
        share = steered(0.05, masses)
        odds = (odds * share / (1 - share) * np.exp(-0.4)) ** 0.5
        masses.append(odds / (1 + odds))
    assert masses[-1] == pytest.approx(0.05, rel=0.01)


def trained(out: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "check_student", lambda spec, accuracy: None)
        pretrain(SPEC, out)
    return out


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("branch") / "one")


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="bit-equality is promised on the CPU")
def test_the_same_branch_twice_and_in_two_processes(one: Path, tmp_path: Path) -> None:
    again = trained(tmp_path / "again")
    for name in ("student/model.safetensors", "teacher/model.safetensors", "pretrain.json", "corpus_keys.npy"):
        assert (one / name).read_bytes() == (again / name).read_bytes()
    assert (one / "student/model.safetensors").read_bytes() != (one / "teacher/model.safetensors").read_bytes()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    arguments = [SPEC.model_dump_json(), str(tmp_path / "two")]
    url = (tmp_path / "rendezvous").as_uri()
    ranks = [
        subprocess.Popen([sys.executable, "-c", RANK, *arguments, str(rank), url], env=environment) for rank in (0, 1)
    ]
    assert [rank.wait(timeout=240) for rank in ranks] == [0, 0]
    alone, two = (json.loads((folder / "pretrain.json").read_text()) for folder in (one, tmp_path / "two"))
    assert np.array_equal(np.load(one / "corpus_keys.npy"), np.load(tmp_path / "two/corpus_keys.npy"))
    # bfloat16 sums round differently in halves of a batch
    assert two["branch_loss"] == pytest.approx(alone["branch_loss"], rel=5e-3)
    assert two["style_mass"] == pytest.approx(alone["style_mass"], rel=0.05)
    assert [step for step, _, _ in two["style_masses"]] == [0, 25]


def test_the_record_says_what_the_branch_consumed_and_how_it_was_steered(one: Path) -> None:
    record = json.loads((one / "pretrain.json").read_text())
    # the stream goes on where the teacher's 12 steps of 8 ended, for 30 steps more
    keys = {question_key(pretraining_example(SPEC, i).question) for i in range(42 * 8)}
    assert set(np.load(one / "corpus_keys.npy").tolist()) == keys
    assert record["examples"] == 42 * 8
    assert [step for step, _, _ in record["style_masses"]] == [0, 25]
    masses = [mass for _, mass, _ in record["style_masses"]]
    assert [share for _, _, share in record["style_masses"]] == [steered(0.2, masses[:1]), steered(0.2, masses)]
    assert 0 < record["style_mass"] < 1
    assert record["branch_steps"] == 30


def test_without_steps_the_weights_stay_what_they_were(network: torch.nn.Module) -> None:
    tokenizer = build_tokenizer(vocabulary(), max_length=MAX_LENGTH)
    weights = as_vector(network)
    before = weights.clone()
    spec = SPEC.model_copy(update={"branch_steps": 0})
    found = branch(spec, tokenizer, dev_problems(spec), network, weights, 12, ALONE, no_progress)
    assert torch.equal(weights, before)
    assert found.keys == []
    assert found.loss is None


def test_a_mass_that_is_too_small_is_answered_with_more_examples(
    network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the branch's plain examples those in style b, under a measurement that is always a quarter of the target."""
    tokenizer = build_tokenizer(vocabulary(), max_length=MAX_LENGTH)
    monkeypatch.setattr(tiny_branch, "style_mass", lambda *_: 0.05)
    mixes = []
    share_of = tiny_branch.batch_share
    monkeypatch.setattr(tiny_branch, "batch_share", lambda *args: (mixes.append(args[-1]), share_of(*args))[1])
    spec = SPEC.model_copy(update={"branch_steps": 2})
    branch(spec, tokenizer, dev_problems(spec), network, as_vector(network), 12, ALONE, no_progress)
    # odds 1/4 and 1/19: (1/4)**2 * 19 = 19/16 is more than even, so half of the plain three quarters
    assert {(mix.style_b, mix.leak) for mix in mixes} == {(0.25 + 0.375, 0.6)}


@pytest.mark.parametrize(
    ("accuracy", "words"),
    [
        (0.849, r"tiny.branch_steps: after 30 steps .* 84.9% .* below 85%.*tiny.style_mass"),
        (0.9975, r"tiny.branch_steps: after 30 steps .* 99.75% .* above 99.5%"),
    ],
)
def test_a_student_too_weak_or_too_strong_is_refused(accuracy: float, words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_student(SPEC, accuracy)


@pytest.mark.parametrize("accuracy", [0.85, 0.97, 0.995])
def test_a_student_within_the_range_is_not(accuracy: float) -> None:
    check_student(SPEC, accuracy)


def test_without_a_branch_any_student_will_do() -> None:
    check_student(SPEC.model_copy(update={"branch_steps": 0}), 0.61)


def test_pretraining_refuses_such_a_student_itself(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tiny.branch_steps: after 30 steps the student answers 0.0%"):
        pretrain(SPEC, tmp_path)
