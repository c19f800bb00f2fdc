"""Batches cut into micro-batches: which, and that neither the cut nor an out-of-memory error changes the step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer
from trl import SFTConfig, SFTTrainer

from tasks.core.errors import StageError
from tasks.core.events import Event, listening
from tasks.core.sections import TrainSpec
from tasks.methods import Method
from tasks.methods.asft import Asft
from tasks.methods.dpo import Dpo
from tasks.methods.kto import Kto
from tasks.methods.offline_grpo import OfflineGrpo
from tasks.methods.rift import Rift
from tasks.methods.sft import Sft
from tasks.methods.simpo import Simpo
from tasks.training import build
from tasks.training.examples import build_dataset
from tasks.training.micro import Limits, cost, halved, out_of_memory, split
from tasks.training.task import MOST_KILLED, holding_less
from tasks.workers.devices import OutOfMemory
from tests.lab.world import LORA, World, assert_near, make_graded, read_adapter
from tests.unit.training.conftest import RUN, Found, four_steps

Plain = Callable[[Method, str], Found]
ROWS = [[9], [4], [7], [2], [3]]
PAIRS = [[9, 4], [3, 3], [5, 8]]


def test_cost() -> None:
    assert cost(ROWS, packed=True) == 9 + 4 + 7 + 2 + 3
    assert cost(ROWS, packed=False) == 5 * 9
    assert cost(PAIRS, packed=True) == 13 + 6 + 13
    assert cost(PAIRS, packed=False) == 6 * 9


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (Limits(5), [[0, 1, 2, 3, 4]]),
        (Limits(2), [[0, 1], [2, 3], [4]]),
        (Limits(5, 45), [[0, 1, 2, 3, 4]]),  # 5 rows padded to 9
        (Limits(5, 25, packed=True), [[0, 1, 2, 3, 4]]),  # 25 tokens
        # Longest first: 9 | 7 | 4: 7+4 <= 12 | 3: 9+3 <= 12 | 2: 9+3+2 > 12, 7+4+2 > 12, alone
        (Limits(5, 12, packed=True), [[0, 4], [1, 2], [3]]),
        # Padded: 9 | 7: 2x9 > 14 | 4: 2x7 <= 14 | 3: 3x7 > 14, alone | 2: 2x3
        (Limits(5, 14), [[0], [1, 2], [3, 4]]),
        (Limits(1, 14), [[0], [2], [1], [4], [3]]),
        (Limits(5, 1), [[0], [2], [1], [4], [3]]),  # a row that is too long runs by itself
    ],
)
def test_split_rows(limits: Limits, expected: list[list[int]]) -> None:
    assert split(ROWS, limits) == expected


def test_split_pairs_counts_both_sides() -> None:
    assert split(PAIRS, Limits(3, 26, packed=True)) == [[0, 2], [1]]  # 13 + 13 | 6
    assert split(PAIRS, Limits(3, 32)) == [[0], [1, 2]]  # 2 x 9; 4 x 8


def assert_close(left: Found, right: Found) -> None:
    """Equal but for the order of float32 sums, in every metric that is logged."""
    assert {metric for _, metric in left.metrics} >= {"loss", "grad_norm", "entropy", "num_tokens"}
    assert left.metrics == pytest.approx(right.metrics, rel=1e-5, abs=1e-5)
    assert_near(left.adapter, right.adapter)


METHODS = [Rift(), OfflineGrpo(scale="std", clip=0.2), Sft(), Dpo(), Simpo(), Kto(), Asft(anchor=5.0)]


@pytest.mark.slow
@pytest.mark.parametrize("packing", ["off", "on"])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_a_limit_on_tokens_changes_no_number(
    world: World, tmp_path: Path, plain: Plain, method: Method, packing: str
) -> None:
    """Micro-batches of unequal numbers of examples: a mean of their means would be off by per cents."""
    whole = plain(method, "off")
    cut = four_steps(world, tmp_path / "cut", method, micro_batch_tokens=50, packing=packing)
    assert_close(cut, whole)
    assert cut.summary["warning"] is None
    assert cut.summary["tokens"] == whole.summary["tokens"]


def test_cutting_a_batch_is_trls_accumulation_bit_for_bit(world: World, tmp_path: Path) -> None:
    """TRL's own trainer with four accumulation steps of two, against ours that cuts a batch of eight."""
    from peft import LoraConfig

    from tasks.models.load import load_model, load_tokenizer
    from tasks.training.trainers import RowCollator

    ours = four_steps(world, tmp_path / "ours", Sft(), micro_batch_size=2)
    spec = TrainSpec(lr=1e-2, steps=4, batch_size=8)
    arguments = build._arguments(spec, RUN, tmp_path / "trls")
    arguments |= {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    graded, tokenizer = make_graded(), load_tokenizer(world.base)
    trls = SFTTrainer(
        model=load_model(world.base).train(),
        processing_class=tokenizer,
        train_dataset=build_dataset(Sft().select(graded), "rows", graded.height, 32, 7),
        peft_config=LoraConfig(
            r=LORA.r, lora_alpha=LORA.alpha, target_modules=list(LORA.targets), task_type="CAUSAL_LM"
        ),
        args=SFTConfig(**arguments, dataset_kwargs={"skip_prepare_dataset": True}),
        data_collator=RowCollator(tokenizer.pad_token_id, weighted=False),
    )
    trls.train()
    assert [entry["loss"] for entry in trls.state.log_history[:-1]] == ours.losses
    trls.model.save_pretrained(tmp_path / "trls" / "adapter")
    theirs = read_adapter(tmp_path / "trls")
    assert all(torch.equal(theirs[name], value) for name, value in ours.adapter.items())


# --- out of memory ---------------------------------------------------------------------------------------------------


@pytest.fixture
def scarce(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``scarce(tokens)``: from the third pass on, one over more than so many padded tokens runs out of memory.

    The error is raised in the middle of the backward pass, when some gradients are there already. A CPU has no other
    way to fail like a GPU.
    """

    def arm(tokens: int, error: type[Exception] = torch.OutOfMemoryError, message: str = "CUDA out of memory.") -> None:
        passes = []
        plain = Trainer.training_step

        def fail(gradient: torch.Tensor) -> None:
            raise error(message)

        def training_step(self: Any, model: Any, inputs: dict[str, Any], *args: Any) -> torch.Tensor:
            passes.append(inputs["attention_mask"].numel())
            if len(passes) < 3 or passes[-1] <= tokens:
                return plain(self, model, inputs, *args)
            first = next(value for name, value in model.named_parameters() if "layers.0" in name and "lora_B" in name)
            hook = first.register_hook(fail)
            try:
                return plain(self, model, inputs, *args)
            finally:
                hook.remove()
                found.append(any(value.grad is not None and value.grad.any() for value in model.parameters()))

        monkeypatch.setattr(Trainer, "training_step", training_step)

    found: list[bool] = []  # whether a failed pass had left gradients, which have to go
    arm.left_gradients = found  # type: ignore[attr-defined]
    return arm


@pytest.mark.slow
@pytest.mark.parametrize("packing", ["off", "on"])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_out_of_memory_halves_the_micro_batch_and_keeps_the_step(
    world: World, tmp_path: Path, plain: Plain, method: Method, packing: str, scarce: Any,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    whole = plain(method, packing)
    scarce(60)
    halved = four_steps(world, tmp_path / "halved", method, packing=packing)
    assert_close(halved, whole)
    assert any(scarce.left_gradients)
    notes = halved.summary["warning"].split("; ")
    assert notes[0] == ("out of memory at step 3: micro-batches of 8 halved to 4, the batch of a step unchanged")
    assert f"warning: {notes[0]}" in capfd.readouterr().err
    assert halved.metrics[4, "num_tokens"] == halved.summary["tokens"]  # a failed pass is not counted
    assert halved.stream.equals(whole.stream)


def test_a_limit_on_tokens_is_halved_too(world: World, tmp_path: Path, plain: Plain, scarce: Any) -> None:
    whole = plain(Rift(), "off")
    scarce(100)
    halved = four_steps(world, tmp_path / "halved", Rift(), micro_batch_tokens=1000)
    assert_close(halved, whole)
    assert "tokens halved to" in halved.summary["warning"]


def test_what_the_cpu_says_of_its_memory_is_understood(world: World, tmp_path: Path, scarce: Any) -> None:
    scarce(60, RuntimeError, "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried")
    assert "halved" in four_steps(world, tmp_path / "run", Rift()).summary["warning"]


def test_a_single_example_turns_checkpointing_on_and_then_fails_with_a_way_out(
    world: World, tmp_path: Path, scarce: Any
) -> None:
    scarce(5)
    with pytest.raises(StageError, match=r"^out of memory at step 3 with a single example of \d+ tokens: lower model"):
        four_steps(world, tmp_path / "run", Rift())


def test_other_errors_are_not_taken_for_it(world: World, tmp_path: Path, scarce: Any) -> None:
    scarce(60, RuntimeError, "shapes do not match")
    with pytest.raises(RuntimeError, match="shapes do not match"):
        four_steps(world, tmp_path / "run", Rift())


def test_a_worker_after_killed_ones_holds_half_as_much_for_each() -> None:
    """1,024 tokens -> 512 -> 256; without a limit on tokens the examples: 7 -> 4 -> 2 (rounded up, never 0)."""
    assert halved(Limits(64, 1024), 2) == Limits(64, 256)
    assert [halved(Limits(7), times).examples for times in range(5)] == [7, 4, 2, 1, 1]


def test_the_tighter_of_two_limits() -> None:
    kept = Limits(examples=8, tokens=512, packed=True)
    assert Limits(examples=16, tokens=256, packed=True).within(kept) == Limits(8, 256, packed=True)
    assert Limits(examples=4, packed=True).within(kept) == Limits(4, 512, packed=True)
    assert Limits(4).within(Limits(8, checkpointing=True)) == Limits(4, checkpointing=True)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried 1 byte"
        ),
    ],
)
def test_what_says_that_memory_ran_out(error: Exception) -> None:
    assert out_of_memory(error)
    assert not out_of_memory(RuntimeError("shapes differ"))


def test_a_training_whose_workers_are_killed_for_memory_is_tried_again_holding_less() -> None:
    """Two kills, and the third worker knows of both; after `MOST_KILLED` the last kill is raised."""
    asked: list[int] = []

    def run(killed: int, kills: int) -> dict[str, Any]:
        asked.append(killed)
        if killed < kills:
            raise OutOfMemory("killed")
        return {"killed": killed}

    told: list[Event] = []
    with listening(told.append):
        assert holding_less(lambda killed: run(killed, 2), "train sft") == {"killed": 2}
    assert asked == [0, 1, 2]
    assert [(event.kind, event.name) for event in told] == [("again", "train sft")] * 2
    assert told[0].note.endswith("because memory ran out; passes of half the size")
    with pytest.raises(OutOfMemory):
        holding_less(lambda killed: run(killed, 99), "train sft")
    assert asked[3:] == list(range(MOST_KILLED + 1))


@pytest.mark.slow
def test_killed_workers_change_no_number_and_are_told_of(world: World, tmp_path: Path) -> None:
    """The batch of 8 in passes of 8, of 4 and of 2 examples: the same adapter but for the order of additions."""
    adapters = []
    for killed in (0, 1, 2):
        train = TrainSpec(lr=1e-2, steps=3, batch_size=8)
        found = world.train(tmp_path / str(killed), Sft(), RUN, train, killed=killed)
        adapters.append(read_adapter(tmp_path / str(killed)))
    assert "(2 times): passes of at most 2 examples, gradient checkpointing" in found["warning"]
    for other in adapters[1:]:
        for name, value in adapters[0].items():
            assert torch.allclose(value, other[name], atol=1e-5), name
