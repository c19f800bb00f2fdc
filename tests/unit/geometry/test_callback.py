"""Our callback in real trainings by TRL: what it writes, whom it tells, and that it changes nothing."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import SFTConfig, SFTTrainer

from tasks.core.errors import InputError
from tasks.geometry import GeometryCallback
from tasks.geometry.adapters.adapter import AdapterSource
from tasks.geometry.callback import FILE, live_factors
from tasks.geometry.trajectory import read_trajectory
from tests.lab.foreign_adapters import tiny_base
from tests.lab.refusals import refusal as refused
from tests.lab.updates import dense

refusal = partial(refused, live_factors)

ROWS = Dataset.from_list([{"text": f"{a} and {b} make {a + b}."} for a in range(8) for b in range(4)])


class Heard(TrainerCallback):
    """What an integration that ``report_to`` names is told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, dict[str, float]]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.told.append((state.global_step, dict(logs)))


def trainer(base: Path, out: Path, *callbacks: TrainerCallback, lora: Any = None, **settings: Any) -> SFTTrainer:
    arguments = SFTConfig(**{
        "output_dir": str(out), "max_steps": 6, "save_steps": 2, "logging_steps": 3, "learning_rate": 1e-2, "seed": 3,
        "per_device_train_batch_size": 4, "max_length": 32, "report_to": [], "use_cpu": True, "bf16": False,
        "gradient_checkpointing": False, "disable_tqdm": True, **settings,
    })  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = lora or LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"])
    return SFTTrainer(model, args=arguments, train_dataset=ROWS, peft_config=config, callbacks=[*callbacks])


def written(out: Path) -> list[dict[str, float | None]]:
    with (out / FILE).open() as file:
        return [{name: float(text) if text else None for name, text in row.items()} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def ran(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SFTTrainer, Heard]:
    """A training of six steps with three checkpoints."""
    out, heard = tmp_path_factory.mktemp("training") / "run", Heard()
    run = trainer(base_model, out, heard)
    run.add_callback(GeometryCallback(run, ks=(1, 2, 99)))
    run.train()
    return out, run, heard


def test_it_writes_what_is_read_from_the_checkpoints(ran: tuple[Path, SFTTrainer, Heard]) -> None:
    rows, found = written(ran[0]), read_trajectory(ran[0], (1, 2, 99))
    expected = found.frame.to_dicts()
    assert [row["step"] for row in rows] == [2, 4, 6] == found.frame["step"].to_list()
    assert list(rows[0]) == found.frame.columns
    assert [row["norm"] for row in expected] == sorted(row["norm"] for row in expected)  # it has trained
    for row, other in zip(rows, expected, strict=True):
        for name, value in other.items():
            assert row[name] == (None if value is None else pytest.approx(value, rel=1e-12, abs=1e-12)), name
    assert rows[0]["turn"] is None
    assert rows[1]["turn"] > 0


def test_whatever_the_trainer_reports_to_is_told(ran: tuple[Path, SFTTrainer, Heard]) -> None:
    out, run, heard = ran
    told = {step: logs for step, logs in heard.told if "geometry/norm" in logs}
    assert list(told) == [2, 4, 6]
    for row in written(out):
        assert told[row["step"]]["geometry/norm"] == row["norm"]
        assert told[row["step"]].get("geometry/turn") == row["turn"]
    assert [one["geometry/norm"] for one in run.state.log_history if "geometry/norm" in one] == [
        row["norm"] for row in written(out)
    ]


def test_it_changes_neither_the_training_nor_what_trl_logs(
    ran: tuple[Path, SFTTrainer, Heard], base_model: Path, tmp_path: Path
) -> None:
    heard = Heard()
    bare = trainer(base_model, tmp_path / "bare", heard)
    bare.train()
    mine, theirs = (
        load_file(one / "checkpoint-6" / "adapter_model.safetensors") for one in (ran[0], tmp_path / "bare")
    )
    assert mine.keys() == theirs.keys()
    assert all(np.array_equal(mine[key], theirs[key]) for key in mine)
    logs = [[one for _, one in told if "loss" in one] for told in (ran[2].told, heard.told)]
    timed = {"train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos"}
    assert len(logs[0]) == 2
    assert "mean_token_accuracy" in logs[0][0]
    assert [{k: v for k, v in one.items() if k not in timed} for one in logs[0]] == [
        {k: v for k, v in one.items() if k not in timed} for one in logs[1]
    ]


def test_rows_between_checkpoints_and_checkpoints_that_were_deleted(base_model: Path, tmp_path: Path) -> None:
    trainer(base_model, tmp_path / "run", GeometryCallback(every=1), save_steps=1, save_total_limit=2).train()
    rows = written(tmp_path / "run")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["cosine_to_last"] is not None for row in rows] == [False] * 4 + [True] * 2
    assert rows[-1]["cosine_to_last"] == pytest.approx(1, abs=1e-12)
    assert all(row["turn"] > 0 for row in rows[1:])


def test_a_training_that_goes_on_goes_on_in_its_table(
    ran: tuple[Path, SFTTrainer, Heard], base_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    broken = trainer(base_model, out, GeometryCallback())
    broken.add_callback(StopAt(4))
    broken.train()
    with (out / FILE).open("a") as file:  # a row of a checkpoint that it does not go on from
        file.write("5" + "," * len((out / FILE).read_text().splitlines()[0].split(",")[1:]) + "\n")
    trainer(base_model, out, GeometryCallback()).train(resume_from_checkpoint=str(out / "checkpoint-4"))
    for row, whole in zip(written(out), written(ran[0]), strict=True):
        assert row["step"] == whole["step"]
        assert row["norm"] == pytest.approx(whole["norm"], rel=1e-6)
        assert row["turn"] == (None if whole["turn"] is None else pytest.approx(whole["turn"], rel=1e-6))


class StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


def test_a_step_that_diverged_has_no_row_and_stops_nothing(base_model: Path, tmp_path: Path) -> None:
    class Spoil(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if state.global_step == 5:
                with torch.no_grad():
                    next(p for n, p in model.named_parameters() if "lora_B" in n)[0, 0] = torch.nan

    run = trainer(base_model, tmp_path / "run", Spoil(), GeometryCallback())
    with pytest.warns(UserWarning, match=r"step 6 has no row in trajectory\.csv: .* NaN or infinite"):
        run.train()
    assert [row["step"] for row in written(tmp_path / "run")] == [2, 4]
    assert run.state.global_step == 6


# --- live factors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_live_factors_are_those_of_the_file(tmp_path: Path, dtype: torch.dtype) -> None:
    settings = LoraConfig(
        r=4, lora_alpha=6, use_rslora=True, target_modules=["q_proj", "embed_tokens"],
        rank_pattern={"layers.1.self_attn.q_proj": 2}, alpha_pattern={"embed_tokens": 1}, modules_to_save=["lm_head"],
    )  # fmt: skip
    base = tiny_base(tmp_path / "base", dtype=dtype)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=dtype), settings)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "adapter")
    live, stored = live_factors(model), AdapterSource(tmp_path / "adapter")
    assert list(live) == list(stored.shapes)
    for name, factors in live.items():
        np.testing.assert_array_equal(dense(factors), dense(stored.read(name)))


def test_what_it_cannot_measure_is_refused_before_the_first_step(base_model: Path, tmp_path: Path) -> None:
    for settings, why in (
        ({"use_dora": True}, r"the update is not scale \* B A \(DoRA rescales the rows\)"),
        ({"init_lora_weights": "pissa"}, "PiSSA changes the base weights"),
    ):
        lora = LoraConfig(r=2, target_modules=["q_proj"], **settings)
        with pytest.raises(InputError, match=why):
            trainer(base_model, tmp_path / "run", GeometryCallback(), lora=lora).train()
    assert not (tmp_path / "run" / FILE).exists()
    model = AutoModelForCausalLM.from_pretrained(base_model)
    assert "the model has no LoRA module" in refusal(model)
    with pytest.raises(InputError, match="every is 0"):
        GeometryCallback(every=0)


def test_what_another_process_holds_is_refused(base_model: Path) -> None:
    """ZeRO-3 leaves every process an empty tensor outside of a step."""
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base_model), LoraConfig(r=2, target_modules=["q_proj"]))
    model.base_model.model.model.layers[0].self_attn.q_proj.lora_A["default"].weight.data = torch.empty(0)
    assert "sharded (ZeRO-3, FSDP)" in refusal(model)


def test_adapters_added_by_transformers_itself(base_model: Path) -> None:
    """Without PEFT's wrapper: names are the model's own."""
    model = AutoModelForCausalLM.from_pretrained(base_model)
    model.add_adapter(LoraConfig(r=2, target_modules=["q_proj"]))
    assert list(live_factors(model)) == ["model.layers.0.self_attn.q_proj"]


def test_the_table_is_whole_after_every_row(base_model: Path, tmp_path: Path) -> None:
    """Who watches the file while it is written sees all rows so far, of one schema."""
    seen: list[int] = []

    class Watch(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.append(pl.read_csv(Path(args.output_dir) / FILE).height)

    trainer(base_model, tmp_path / "run", GeometryCallback(), Watch()).train()
    assert seen == [1, 2, 3]
