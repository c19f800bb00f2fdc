"""SFT -> DPO as it is trained: from which policy, against which reference, into which parts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from tasks.core.sections import TrainSpec
from tasks.methods.dpo import Dpo
from tasks.methods.sft import Sft
from tasks.methods.sft_dpo import SftDpo
from tasks.models.load import load_model
from tasks.training.train import PARTS, WEIGHTS, train_adapter
from tests.definitions.losses import preference_loss
from tests.lab.world import LORA, World, make_graded, read_adapter, token_logprobs
from tests.unit.training.conftest import RUN, first_batch, make_trainer, perturb

TRAIN = TrainSpec(lr=1e-2, steps=6, batch_size=8)
METHOD = SftDpo(sft_share=0.5, dpo_lr_ratio=0.5)


def update(folder: Path) -> dict[str, torch.Tensor]:
    """Module -> alpha / r B A, dense, in double precision."""
    import json

    config = json.loads((folder / "adapter_config.json").read_text())
    weights = {name: value.double() for name, value in load_file(folder / WEIGHTS).items()}
    return {
        name: config["lora_alpha"] / config["r"] * weights[name.replace("lora_A", "lora_B")] @ value
        for name, value in weights.items()
        if "lora_A" in name
    }


def test_the_first_phase_is_sft_and_the_parts_add_up(world: World, tmp_path: Path) -> None:
    summary = world.train(tmp_path / "run", METHOD, RUN, TRAIN)
    sft = world.train(tmp_path / "sft", Sft(), RUN, TRAIN.model_copy(update={"steps": 3}))
    assert summary["lora_a_sha256"] == sft["lora_a_sha256"]
    assert summary["steps"] == 6
    first = load_file(tmp_path / "run" / PARTS / "1-sft" / WEIGHTS)
    assert all(torch.equal(value, first[name]) for name, value in read_adapter(tmp_path / "sft").items())
    total, sft_part, dpo_part = (
        update(tmp_path / "run" / name) for name in ("adapter", f"{PARTS}/1-sft", f"{PARTS}/2-dpo")
    )
    for name, value in total.items():
        assert float((value - sft_part[name] - dpo_part[name]).norm()) < 1e-6 * float(value.norm())
        assert float(dpo_part[name].norm()) > 0.01 * float(value.norm())
    PeftModel.from_pretrained(load_model(world.base, "float32"), str(tmp_path / "run" / PARTS / "2-dpo"))


def test_steps_and_rows_of_the_second_phase_follow_the_first(world: World, tmp_path: Path) -> None:
    world.train(tmp_path / "run", METHOD, RUN, TRAIN)
    log = pl.read_parquet(tmp_path / "run" / "training.parquet")
    assert log.filter(metric="loss")["step"].to_list() == [1, 2, 3, 4, 5, 6]
    assert log.filter(metric="rewards/margins")["step"].to_list() == [4, 5, 6]
    # Cosine over three steps: peak 1e-2, (1 + cos(pi / 3)) / 2 = .75 and .25 of it; then the same at half the peak.
    rates = [0.01, 0.0075, 0.0025, 0.005, 0.00375, 0.00125]
    assert log.filter(metric="learning_rate")["value"].to_list() == pytest.approx(rates)
    stream = pl.read_parquet(tmp_path / "run" / "stream.parquet")
    assert stream["step"].to_list() == [i // 8 for i in range(48)]
    chosen = set(Dpo().select(make_graded())["row"])
    assert set(stream.filter(pl.col("step") >= 3)["row"]) <= chosen


def test_pairs_are_held_against_the_policy_at_the_switch(world: World, tmp_path: Path) -> None:
    """TRL's loss with the adapter moved on, against log-ratios to the SFT policy, one sequence at a time."""
    world.train(tmp_path / "run", METHOD, RUN, TRAIN)
    start = tmp_path / "run" / PARTS / "1-sft"
    dataset, _ = make_trainer(world, Dpo(), TRAIN, tmp_path / "plain", make_graded())
    trainer, _ = make_trainer(world, Dpo(beta=0.4), TRAIN, tmp_path / "trainer", make_graded(), start=start)
    reference = PeftModel.from_pretrained(load_model(world.base, "float32"), str(start)).eval()
    batch = first_batch(trainer)
    assert float(trainer.compute_loss(trainer.model, dict(batch)).detach()) == pytest.approx(0.693147, abs=1e-5)
    perturb(trainer.model)
    losses = []
    for pair in dataset.train_dataset.select(range(8)):
        ratios = [
            token_logprobs(model, pair["prompt_ids"], ids).sum()[None]
            for model in (trainer.model, reference)
            for ids in (pair["chosen_ids"], pair["rejected_ids"])
        ]
        losses.append(float(preference_loss(*ratios, beta=0.4)))
    assert float(trainer.compute_loss(trainer.model, dict(batch)).detach()) == pytest.approx(sum(losses) / 8, rel=1e-5)


def test_another_seed_of_the_run_begins_elsewhere(world: World, tmp_path: Path) -> None:
    one = train_adapter(
        base=world.base, rollouts=world.rollouts, method=METHOD, train=TRAIN, lora=LORA,
        info=replace(RUN, seed=4), pad_token=None, out=_made(tmp_path / "other"),
    )  # fmt: skip
    assert one["lora_a_sha256"] != world.train(tmp_path / "run", METHOD, RUN, TRAIN)["lora_a_sha256"]


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
