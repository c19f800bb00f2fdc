"""`train_adapter` end to end: what it writes, that it repeats itself bit for bit, and its controls."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from tasks.core.digests import build_manifest
from tasks.core.errors import InputError
from tasks.core.frames import TRAINING
from tasks.core.results import RunInfo
from tasks.core.sections import TrainSpec
from tasks.methods import Methods
from tasks.methods.dpo import Dpo
from tasks.methods.sft import Sft
from tasks.models.load import load_model
from tasks.training.checks import read_stream, shared_initialisation, shared_stream
from tasks.training.log import read_log
from tasks.training.order import stream_order
from tests.lab.world import LORA, World, logged, make_graded, read_adapter, token_logprobs
from tests.unit.training.conftest import OFFLINE, TRAIN, Trained

ROW_METHODS = [name for name in OFFLINE if getattr(Methods(), name).kind != "pairs"]
SFT_RUN = RunInfo("sft", "sft", seed=3, data_seed=7, lr=1e-2)


def streams(trained: dict[str, Trained]) -> dict[RunInfo, list[int]]:
    return {
        trained[name].info: read_stream(pl.read_parquet(trained[name].out / "stream.parquet")) for name in ROW_METHODS
    }


@pytest.mark.parametrize("name", OFFLINE)
def test_writes_adapter_log_and_stream(trained: dict[str, Trained], name: str) -> None:
    run = trained[name]
    assert sorted(path.name for path in run.out.iterdir()) == ["adapter", "stream.parquet", "training.parquet"]
    log = pl.read_parquet(run.out / "training.parquet")
    assert log.schema == TRAINING
    assert log["run"].unique().to_list() == [name]
    accuracy = [] if name == "kto" else ["mean_token_accuracy"]  # TRL's KTOTrainer logs none
    for metric in ("loss", "grad_norm", "learning_rate", "num_tokens", *accuracy):
        rows = log.filter(metric=metric)
        assert rows["step"].to_list() == list(range(1, TRAIN.steps + 1)), metric
        assert rows["value"].is_finite().all(), metric
    assert not [metric for metric in log["metric"].unique() if "runtime" in metric or "per_second" in metric]
    assert log.filter(metric="num_tokens")["value"][-1] == run.summary["tokens"]
    assert log.filter(metric="loss")["value"][-1] == run.summary["last_loss"]
    assert run.summary["steps"] == TRAIN.steps
    assert run.summary["examples"] == getattr(Methods(), name).select(make_graded()).height
    stream = pl.read_parquet(run.out / "stream.parquet")
    assert stream["step"].to_list() == [i // 8 for i in range(48)]
    weights = read_adapter(run.out)
    assert {key.split(".")[-3] for key in weights} == set(LORA.targets)
    assert len(weights) == 2 * 4 * 2  # layers, projections, A and B
    assert all(bool(torch.isfinite(value).all()) and bool(value.any()) for value in weights.values())


@pytest.mark.slow
def test_trained_twice_the_artifacts_are_the_same_bytes(
    trained: dict[str, Trained], trained_again: dict[str, Trained]
) -> None:
    """Other folders for base, rollouts and output, and whatever time it is: artifacts are named by their content."""
    for name in OFFLINE:
        assert build_manifest(trained[name].out) == build_manifest(trained_again[name].out), name
        assert trained[name].summary == trained_again[name].summary


def test_no_path_and_no_order_of_a_set_in_the_artifact(world: World, trained: dict[str, Trained]) -> None:
    for run in trained.values():
        for path in (path for path in run.out.rglob("*") if path.is_file()):
            content = path.read_bytes()
            assert str(world.base).encode() not in content, path
            assert str(run.out).encode() not in content, path
        config = json.loads((run.out / "adapter" / "adapter_config.json").read_text())
        assert config["target_modules"] == sorted(LORA.targets)  # PEFT's set has another order in another process
        assert config["base_model_name_or_path"] is None
        assert (config["r"], config["lora_alpha"]) == (LORA.r, LORA.alpha)


def test_methods_differ_in_their_adapters(trained: dict[str, Trained]) -> None:
    digests = {build_manifest(run.out / "adapter")["adapter_model.safetensors"]["sha256"] for run in trained.values()}
    assert len(digests) == len(OFFLINE)


def test_one_seed_one_initialisation(world: World, trained: dict[str, Trained], tmp_path: Path) -> None:
    digests = {run.info: str(run.summary["lora_a_sha256"]) for run in trained.values()}
    assert shared_initialisation(digests)["ok"]
    short = TrainSpec(steps=1, batch_size=4)
    twin = RunInfo("twin", "sft", seed=3, data_seed=8, lr=1e-2)
    digests[twin] = world.train(tmp_path / "twin", Sft(), twin, short)["lora_a_sha256"]
    assert len(set(digests.values())) == 1
    other = RunInfo("other", "sft", seed=4, data_seed=7, lr=1e-2)
    digests[other] = world.train(tmp_path / "other", Sft(), other, short)["lora_a_sha256"]
    assert len(set(digests.values())) == 2
    assert shared_initialisation(digests)["ok"]
    twin_stream, other_stream = (
        read_stream(pl.read_parquet(tmp_path / run / "stream.parquet")) for run in ("twin", "other")
    )
    assert twin_stream != read_stream(pl.read_parquet(trained["sft"].out / "stream.parquet"))[:4]
    assert other_stream == read_stream(pl.read_parquet(trained["sft"].out / "stream.parquet"))[:4]


def test_row_methods_share_the_stream(trained: dict[str, Trained]) -> None:
    graded = make_graded()
    found = streams(trained)
    selected = {info: set(getattr(Methods(), info.method).select(graded)["row"].to_list()) for info in found}
    assert shared_stream(found, selected)["ok"]
    for info, rows in found.items():
        kept = getattr(Methods(), info.method).select(graded)["row"].to_numpy()
        assert rows == kept[stream_order(kept, graded.height, 48, 7)].tolist(), info.run
    tampered = {info: rows[::-1] if info.run == "dft" else rows for info, rows in found.items()}
    assert not shared_stream(tampered, selected)["ok"]


def test_pairs_follow_the_stream_of_their_chosen_rollouts(trained: dict[str, Trained]) -> None:
    chosen = Dpo().select(make_graded())["row"].to_numpy()
    rows = read_stream(pl.read_parquet(trained["dpo"].out / "stream.parquet"))
    assert rows == chosen[stream_order(chosen, 48, 48, 7)].tolist()


def nll(model: Any) -> float:
    """Nats a completion token over all rollouts, one at a time, without padding."""
    rows = make_graded().select("prompt_ids", "completion_ids").iter_rows()
    return -float(torch.cat([token_logprobs(model, *row) for row in rows]).mean())


def test_sft_on_all_rollouts_a_step_lowers_the_loss_that_it_logs(world: World, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    train = TrainSpec(steps=10, batch_size=48, scheduler="constant")
    world.train(
        tmp_path / "sft", Sft(), SFT_RUN, train, progress=lambda done, total, note="": calls.append((done, total))
    )
    losses = logged(tmp_path / "sft", "loss")
    assert losses[0] == pytest.approx(nll(load_model(world.base)), rel=1e-5)  # before the first step
    assert losses == sorted(losses, reverse=True)
    after = nll(load_model(world.base, adapter=tmp_path / "sft" / "adapter"))
    assert after < losses[-1] < losses[0] - 0.1
    assert calls == [(step, 10) for step in range(1, 11)]


def test_a_micro_batch_that_does_not_divide_the_batch_is_refused(world: World, tmp_path: Path) -> None:
    train = TrainSpec(steps=1, batch_size=10, micro_batch_size=4)
    with pytest.raises(InputError, match=r"^train\.micro_batch_size: 4 does not divide train\.batch_size 10$"):
        world.train(tmp_path / "sft", Sft(), SFT_RUN, train)


def test_read_log_leaves_an_unfinished_last_line_for_the_next_time(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert read_log(path) == []
    path.write_text('{"step": 1, "loss": 2.5, "epoch": 0.5}\n{"step": 2, "loss": 1.')
    assert read_log(path) == [("loss", 2.5, 1)]
    with path.open("a") as file:
        file.write('5, "grad_norm": NaN}\n')
    first, second, third = read_log(path)
    assert (first, second) == (("loss", 2.5, 1), ("loss", 1.5, 2))
    assert third[0] == "grad_norm"
    assert math.isnan(third[1])


def test_an_adapter_without_its_model_card_still_loads_elsewhere(
    world: World, trained: dict[str, Trained], tmp_path: Path
) -> None:
    moved = shutil.copytree(trained["sft"].out / "adapter", tmp_path / "moved")
    assert nll(load_model(world.base, adapter=moved)) != nll(load_model(world.base))
