"""On-policy distillation end to end on the little world: what it samples, which loss, and that it repeats itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from tasks.core.digests import build_manifest
from tasks.core.results import LocalTeacher
from tasks.core.sections import TrainSpec
from tasks.methods.distillation import Distillation
from tasks.methods.sft import Sft
from tasks.models.load import load_model
from tasks.models.turn import open_turn
from tasks.problems.synthetic import instruct
from tasks.training.examples import asked, build_dataset
from tasks.training.micro import Limits
from tasks.training.online import Sampling
from tests.definitions.losses import mixed_divergence
from tests.lab.world import LORA, World, make_graded, read_adapter, write_base
from tests.unit.training.conftest import RUN, first_batch, perturb
from tests.unit.training.test_online import gradients

TRAIN = TrainSpec(lr=1e-2, steps=5, batch_size=8)
METHOD = Distillation(max_new_tokens=9)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> LocalTeacher:
    """The little base with other weights."""
    folder = write_base(tmp_path_factory.mktemp("teacher") / "model")
    model = load_model(folder, "float32")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    return LocalTeacher(folder, in_style=False)


def make_trainer(world: World, teacher: LocalTeacher, method: Distillation, folder: Path) -> Any:
    from tasks.training.build import build_trainer

    graded = make_graded()
    dataset = build_dataset(method.select(graded), method.kind, graded.height, 40, RUN.data_seed)
    dataset = asked(dataset, graded, teacher, world.base, None)
    trainer, _ = build_trainer(world.base, dataset, method, TRAIN, LORA, RUN, None, folder, teacher=teacher.folder)
    trainer.current_gradient_accumulation_steps = 1  # as `train` sets it
    perturb(trainer.model)
    return trainer


def test_trains_from_the_shared_initialisation_and_repeats_itself(
    world: World, teacher: LocalTeacher, tmp_path: Path
) -> None:
    summary = world.train(tmp_path / "once", METHOD, RUN, TRAIN, teacher=teacher)
    assert world.train(tmp_path / "again", METHOD, RUN, TRAIN, teacher=teacher) == summary
    assert build_manifest(tmp_path / "once") == build_manifest(tmp_path / "again")
    sft = world.train(tmp_path / "sft", Sft(), RUN, TrainSpec(steps=1, batch_size=4))
    assert summary["lora_a_sha256"] == sft["lora_a_sha256"]
    assert (summary["examples"], summary["steps"], summary["warning"]) == (12, 5, None)
    assert any(bool(value.any()) for name, value in read_adapter(tmp_path / "once").items() if "lora_B" in name)
    log = pl.read_parquet(tmp_path / "once" / "training.parquet")
    assert log.filter(metric="num_tokens")["value"][-1] == summary["tokens"]
    assert not [metric for metric in log["metric"].unique() if "time" in metric]
    assert len(set(pl.read_parquet(tmp_path / "once" / "stream.parquet")["row"][:12])) == 12  # a problem once an epoch


def test_it_nears_the_teacher(world: World, teacher: LocalTeacher, tmp_path: Path) -> None:
    train = TrainSpec(lr=2e-2, steps=30, batch_size=16, scheduler="constant")
    world.train(tmp_path / "run", METHOD, RUN, train, teacher=teacher)
    losses = pl.read_parquet(tmp_path / "run" / "training.parquet").filter(metric="loss")["value"]
    assert losses[-5:].mean() < 0.8 * losses[:5].mean()


@pytest.mark.parametrize("beta", [1.0, 0.0, 0.3])
def test_loss_and_gradient_are_the_definitions(
    world: World, teacher: LocalTeacher, tmp_path: Path, beta: float
) -> None:
    """Over the tokens of all sampled completions, each by itself, unpadded, from both models' full logits; the teacher
    behind a prompt of its own."""
    trainer = make_trainer(world, teacher, METHOD.model_copy(update={"beta": beta}), tmp_path)
    inputs = first_batch(trainer)
    inputs = [{**example, "asked": [1, *example["asked"][2:], 9, 8]} for example in inputs]
    batch = trainer._generate_and_score_completions(inputs)
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    theirs = gradients(trainer.model)
    other = load_model(teacher.folder, "float32")
    total, tokens = torch.zeros(()), 0
    for i, example in enumerate(inputs):
        completion = batch["completion_ids"][i][batch["completion_mask"][i].bool()].tolist()
        n = len(completion)
        student_TV = trainer.model(input_ids=torch.tensor([example["prompt"] + completion])).logits[0, -n - 1 : -1]
        with torch.no_grad():
            teacher_TV = other(input_ids=torch.tensor([example["asked"] + completion])).logits[0, -n - 1 : -1]
        total, tokens = total + mixed_divergence(student_TV, teacher_TV, beta).sum(), tokens + n
    assert tokens > 20
    assert float(loss.detach()) == pytest.approx(float(total.detach()) / tokens, rel=1e-4)
    (total / tokens).backward()
    for name, value in gradients(trainer.model).items():
        assert float((theirs[name] - value).norm()) < 1e-3 * float(value.norm()) + 1e-8, name


def test_cutting_the_batch_changes_no_number(world: World, teacher: LocalTeacher, tmp_path: Path) -> None:
    trainer = make_trainer(world, teacher, METHOD, tmp_path)
    batch = trainer._generate_and_score_completions(first_batch(trainer))
    found = []
    for examples in (8, 3):
        trainer.set_limits(Limits(examples))
        trainer._metrics["train"].clear()
        loss = super(Sampling, trainer).training_step(trainer.model, dict(batch))
        entropy = trainer._metrics["train"]["entropy"][0]
        found.append((float(loss), entropy, gradients(trainer.model)))
    assert found[1][:2] == pytest.approx(found[0][:2], rel=1e-5)
    for name, value in found[0][2].items():
        assert float((found[1][2][name] - value).norm()) < 1e-4 * float(value.norm()) + 1e-8, name


def test_the_synthetic_tasks_teacher_is_asked_in_its_own_style(world: World) -> None:
    graded = make_graded()
    plain = build_dataset(METHOD.select(graded), METHOD.kind, graded.height, 3, 0)
    kept = asked(plain, graded, LocalTeacher(world.base, in_style=False), world.base, None)
    assert kept["asked"] == kept["prompt"]
    styled = asked(plain, graded, LocalTeacher(world.base, in_style=True), world.base, None)
    turn = open_turn(world.base)
    assert styled["asked"] == [turn.prompt(instruct(graded["prompt"][row])) for row in plain["row"]]


def test_a_base_in_bfloat16_samples_and_trains(world: World, teacher: LocalTeacher, tmp_path: Path) -> None:
    train = TRAIN.model_copy(update={"precision": "bfloat16", "steps": 2})
    summary = world.train(tmp_path / "run", METHOD, RUN, train, teacher=teacher)
    assert (summary["steps"], summary["examples"]) == (2, 12)
