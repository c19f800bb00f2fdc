"""Online GRPO end to end on the little world: what it samples, what it learns from it, and that it repeats itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from tasks.core.digests import build_manifest
from tasks.core.errors import InputError
from tasks.core.sections import TrainSpec
from tasks.methods.online_grpo import OnlineGrpo
from tasks.methods.sft import Sft
from tasks.models.turn import open_turn
from tasks.training.micro import Limits
from tasks.training.online import Sampling, grade_reward
from tests.definitions.losses import group_advantages
from tests.lab.families import FAMILIES, write_parrot
from tests.lab.world import World, assert_near, logged, make_graded, read_adapter, token_logprobs
from tests.unit.training.conftest import RUN, first_batch, make_trainer, perturb

TRAIN = TrainSpec(lr=1e-2, steps=5, batch_size=8)
METHOD = OnlineGrpo(samples=4)


def test_the_reward_is_the_grade() -> None:
    completions = [r"so \boxed{42}", r"so \boxed{41}", "no idea", r"\boxed{84/2}"]
    assert grade_reward(completions, ["42"] * 4, row=[0] * 4) == [1.0, 0.0, 0.0, 1.0]


def test_trains_from_the_shared_initialisation_and_repeats_itself(world: World, tmp_path: Path) -> None:
    summary = world.train(tmp_path / "once", METHOD, RUN, TRAIN)
    assert world.train(tmp_path / "again", METHOD, RUN, TRAIN) == summary
    assert build_manifest(tmp_path / "once") == build_manifest(tmp_path / "again")
    sft = world.train(tmp_path / "sft", Sft(), RUN, TrainSpec(steps=1, batch_size=4))
    assert summary["lora_a_sha256"] == sft["lora_a_sha256"]
    assert (summary["examples"], summary["steps"], summary["warning"]) == (12, 5, None)
    assert any(bool(value.any()) for name, value in read_adapter(tmp_path / "once").items() if "lora_B" in name)
    log = pl.read_parquet(tmp_path / "once" / "training.parquet")
    assert log.filter(metric="num_tokens")["value"][-1] == summary["tokens"]
    assert log.filter(metric="reward")["value"].max() > 0
    assert not [metric for metric in log["metric"].unique() if "time" in metric]


def test_each_prompt_is_answered_so_often_in_the_streams_order(world: World, tmp_path: Path) -> None:
    world.train(tmp_path / "run", METHOD, RUN, TRAIN)
    rows = pl.read_parquet(tmp_path / "run" / "stream.parquet")
    assert rows["step"].to_list() == [i // 8 for i in range(40)]
    trainer, _ = make_trainer(world, METHOD, TRAIN, tmp_path / "trainer")
    prompts = trainer.train_dataset["row"][:10]
    assert rows["row"].to_list() == [row for row in prompts for _ in range(4)]
    assert len(set(prompts)) == 10  # 12 problems: none comes again within an epoch


def test_fewer_steps_than_the_study(world: World, tmp_path: Path) -> None:
    summary = world.train(tmp_path / "run", OnlineGrpo(samples=4, steps=2), RUN, TRAIN)
    assert summary["steps"] == 2
    assert logged(tmp_path / "run", "learning_rate") == pytest.approx(
        [1e-2, 5e-3]
    )  # cosine over its own two steps: (1 + cos(pi / 2)) / 2


def sampled(trainer: Any, rewards: list[float]) -> dict[str, Any]:
    """A step's batch as the trainer makes it, with these rewards instead of the grader's."""
    trainer.current_gradient_accumulation_steps = 1  # as `train` sets it
    trainer.reward_funcs = [lambda completions, **others: rewards]
    batch: dict[str, Any] = trainer._generate_and_score_completions(first_batch(trainer))
    return batch


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    return found


REWARDS = [1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0]


def test_gradient_is_the_definitions_and_raises_what_was_rewarded(world: World, tmp_path: Path) -> None:
    """-mean_i A_i mean_t grad log pi(y_t), one sequence at a time without padding. The loss itself is -mean_i A_i."""
    trainer, _ = make_trainer(world, METHOD, TRAIN, tmp_path)
    perturb(trainer.model)
    batch = sampled(trainer, REWARDS)
    advantages = group_advantages(torch.tensor(REWARDS).view(2, 4)).flatten()
    assert batch["advantages"].tolist() == pytest.approx(advantages.tolist())
    loss = trainer.compute_loss(trainer.model, batch)
    assert float(loss.detach()) == pytest.approx(-float(advantages.mean()), abs=1e-6)
    loss.backward()
    theirs = gradients(trainer.model)
    total: Any = 0.0
    for i in range(8):
        prompt = batch["prompt_ids"][i][batch["prompt_mask"][i].bool()].tolist()
        completion = batch["completion_ids"][i][batch["completion_mask"][i].bool()].tolist()
        total = total - advantages[i] * token_logprobs(trainer.model, prompt, completion, grad=True).mean() / 8
    total.backward()
    assert_near(theirs, gradients(trainer.model), zero=1e-8)


def test_groups_of_one_reward_teach_nothing(world: World, tmp_path: Path) -> None:
    trainer, _ = make_trainer(world, METHOD, TRAIN, tmp_path)
    perturb(trainer.model)
    batch = sampled(trainer, [1.0] * 4 + [0.0] * 4)
    trainer.compute_loss(trainer.model, batch).backward()
    assert not any(bool(value.any()) for value in gradients(trainer.model).values())


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
def test_cutting_the_batch_changes_no_number(world: World, tmp_path: Path, loss_type: str) -> None:
    """Micro-batches of three, whose completions differ in length, against the whole batch of eight; with a KL term."""
    method = OnlineGrpo.model_validate({"samples": 4, "loss_type": loss_type, "beta": 0.5})
    trainer, _ = make_trainer(world, method, TRAIN, tmp_path)
    perturb(trainer.model)
    batch = sampled(trainer, REWARDS)
    found = []
    for examples in (8, 3):
        trainer.set_limits(Limits(examples))
        trainer._metrics["train"].clear()
        loss = super(Sampling, trainer).training_step(trainer.model, dict(batch))
        noted = {name: values[0] for name, values in trainer._metrics["train"].items() if name != "step_time"}
        found.append(({"loss": float(loss), **noted}, gradients(trainer.model)))
    assert found[0][0].keys() >= {"kl", "entropy", "clip_ratio/low_mean", "clip_ratio/high_max"}
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5, abs=1e-6)
    assert_near(found[1][1], found[0][1], zero=1e-8)


def test_a_base_in_bfloat16_samples_and_trains(world: World, tmp_path: Path) -> None:
    train = TRAIN.model_copy(update={"precision": "bfloat16", "steps": 2})
    summary = world.train(tmp_path / "run", METHOD, RUN, train)
    assert (summary["steps"], summary["examples"]) == (2, 12)
    assert {value.dtype for value in read_adapter(tmp_path / "run").values()} == {torch.float32}


def test_running_without_padding_is_refused(world: World, tmp_path: Path) -> None:
    train = TRAIN.model_copy(update={"packing": "on"})
    with pytest.raises(InputError, match=r"^train\.packing: online_grpo samples in padded batches, so batches must be"):
        make_trainer(world, METHOD, train, tmp_path)


def test_sampling_ends_where_every_other_engine_does(tmp_path: Path) -> None:
    """At the end of the template's turn, which none of the model's configurations names: TRL would not know it."""
    base = write_parrot(FAMILIES["phi 4"], "A: 7", "9", tmp_path / "base")
    graded = make_graded().with_columns(prompt_ids=pl.lit(open_turn(base).prompt("Q?"), dtype=pl.List(pl.Int64)))
    trainer, _ = make_trainer(World(base, tmp_path), METHOD, TRAIN, tmp_path / "run", graded)
    batch = sampled(trainer, REWARDS)
    ids = open_turn(base).answer("A: 7")
    assert batch["completion_ids"].tolist() == [ids] * 8
    assert batch["completion_mask"].sum(1).tolist() == [5] * 8
