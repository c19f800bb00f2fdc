"""How often a training read its examples: worked by hand, and of a real training."""

from __future__ import annotations

from typing import Any

from flows.notes.epochs import epoch_notes, read_often
from tasks.core.results import ArtifactRef, RunInfo, StageResult
from tasks.core.sections import TrainSpec
from tasks.settings.study import StudySpec


def trained(**examples: int) -> dict[RunInfo, StageResult]:
    """Trainings of 80 steps, one a method, of so many selected examples."""
    return {
        RunInfo(name, name, 0, 0, 1e-3): StageResult(
            "train", f"train {name}", ArtifactRef("", "", "train", ""), 0.0, summary={"examples": n, "steps": 80}
        )
        for name, n in examples.items()
    }


def study(*methods: str, **others: Any) -> StudySpec:
    return StudySpec(
        methods=methods, replicates=(), init_replicates=(), train=TrainSpec(steps=80, batch_size=64), **others
    )


def test_examples_read_over_examples_selected() -> None:
    """80 steps of 64 read 5,120 examples: 4,096 rows 1.25 times, 914 pairs 5.6018 times."""
    found = read_often(study("sft", "dpo"), trained(sft=4096, dpo=914))
    assert found == {"sft": {"examples": 4096, "epochs": 1.25}, "dpo": {"examples": 914, "epochs": 5.6018}}
    assert epoch_notes(study("sft", "dpo"), trained(sft=4096, dpo=914)) == [
        "The methods did not read their examples equally often: DPO read its pairs 5.60 times and SFT read its rows "
        "1.25 times. In the paper 1,000 steps of 32 are 17.8 times its 1,800 pairs for DPO, and 0.43 times about "
        "75,000 rows."
    ]
    assert (round(1000 * 32 / 1800, 1), round(1000 * 32 / 75_000, 2)) == (17.8, 0.43)


def test_a_prompt_that_is_sampled_eight_times_is_read_once() -> None:
    """64 completions of a step are 8 prompts: 80 steps read 640 of 1,024. What samples is not held against the rest."""
    spec = study("sft", "online_grpo", online_grpo={"samples": 8})
    runs = trained(sft=4096, online_grpo=1024)
    assert read_often(spec, runs)["online_grpo"] == {"examples": 1024, "epochs": 0.625}
    assert epoch_notes(spec, runs) == []


def test_nothing_is_said_up_to_a_factor_of_two() -> None:
    assert epoch_notes(study("sft", "rft"), trained(sft=4096, rft=2048)) == []
    (said,) = epoch_notes(study("sft", "rft"), trained(sft=4096, rft=2047))
    assert "RFT read its rows 2.50 times and SFT read its rows 1.25 times." in said
    assert "paper" not in said
