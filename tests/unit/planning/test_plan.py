"""Plans: counts as the flow's, times against a study that was recorded, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import InputError
from tasks.planning.machine import Machine, named
from tasks.planning.plan import Plan, _disk_refusals, check_machine, plan_study
from tasks.planning.stages import Stage
from tasks.settings.presets import preset
from tasks.settings.study import StudySpec, build, override

TWO_CORES = Machine("2 CPU slots", "cpu", 2, 12e9, 0.11e12, 10e9, "measured when the machine was idle")
"""Where the recorded studies ran."""


def spec_of(name: str, *assignments: str) -> StudySpec:
    return build(override(preset(name), assignments))


def stages(plan: Plan) -> dict[str, Stage]:
    return {stage.name: stage for stage in plan.stages}


def test_the_default_study_has_the_flow_s_tasks() -> None:
    """8 adapters: 28 pairs; 9 ends with the base; 11 models: base, instructed base, teacher, adapters."""
    found = stages(plan_study(spec_of("tiny"), TWO_CORES))
    trained = {name: stage.tasks for name, stage in found.items() if name.startswith("train")}
    assert trained == {
        "train sft": 3, "train rft": 1, "train dft": 1, "train rift": 1, "train offline_grpo": 1, "train dpo": 1
    }  # fmt: skip
    assert [found[name].tasks for name in ("spectrum", "geometry", "path ends", "paths")] == [8, 28, 9, 28]
    assert found["evaluate"].size.startswith("11 models x 1,719 problems")
    # 72 steps x 64 sequences x 86 tokens; a pair is two sequences
    assert found["train rft"].size == "72 steps, 396,288 tokens"
    assert found["train dpo"].size == "72 steps, 792,576 tokens"
    assert next(iter(found)) == "pretrain"


RECORDED = {"pretrain": 93.9, "rollouts": 20.3, "train": 279.9, "evaluate": 107.4, "paths": 124.3, "path ends": 12.0}
"""Seconds of the default study by stage (docs/performance.md), summed over tasks; evaluate's are of both cores."""


def test_time_against_the_recorded_default_study() -> None:
    """Planned: 114, 38, 269, 83, 136 and 18 s, and 478 from beginning to end where 411 were recorded."""
    plan = plan_study(spec_of("tiny", "paths.n=64", "tiny.branch_steps=0"), TWO_CORES)
    found = stages(plan)
    planned = {name: found[name].seconds * found[name].tasks for name in RECORDED if name in found}
    planned["train"] = sum(stage.seconds * stage.tasks for name, stage in found.items() if name.startswith("train"))
    planned["evaluate"] = found["evaluate"].seconds
    for name, seconds in RECORDED.items():
        assert planned[name] == pytest.approx(seconds, rel=0.9 if seconds < 50 else 0.25), name
    assert 3600 * plan.hours == pytest.approx(411, rel=0.2)


def test_the_student_s_branch_is_in_the_plan() -> None:
    # .55 of 1,200 steps, and 290
    with_branch, without = (
        stages(plan_study(spec_of("tiny", f"tiny.branch_steps={steps}"), TWO_CORES))["pretrain"] for steps in (290, 0)
    )
    assert with_branch.size.startswith("950 steps of teacher and student")
    assert with_branch.operations / without.operations == pytest.approx(950 / 660)


def test_switched_off_stages_are_not_in_the_plan() -> None:
    off = ("paths.n=0", "functions.n=0", "gradients.n=0", "geometry.base_measures=false")
    spec = spec_of("smoke", *off, "methods=sft", "replicates=")
    assert list(stages(plan_study(spec, TWO_CORES))) == [
        "pretrain", "problems", "rollouts", "grade", "train sft", "evaluate", "accuracy, report"
    ]  # fmt: skip


def test_gradients_before_training_are_one_pass_a_method() -> None:
    """Eight passes over 2,048 rows: one a method, and for pairs two more (two sequences, and the base's pass)."""
    found = stages(plan_study(spec_of("tiny-why"), TWO_CORES))
    assert found["gradients"].operations == pytest.approx(found["train rft"].operations * 8 * 2048 / (72 * 64))
    # Parts x methods x 4 bytes x 3 layers x r (in + out) of q, k, v and o.
    assert (
        found["gradients"].size
        == f"2,048 rows x 6 methods, {8 * 6 * 4 * 3 * 8 * (2 * 256 + 2 * 192) / 1e6:.0f} MB held"
    )
    assert "gradients" not in stages(plan_study(spec_of("tiny"), TWO_CORES))
    assert stages(plan_study(spec_of("paper-fixed"), named("H100")))["gradients"].seconds < 20 * 60


def test_retention_is_a_pass_of_every_model_over_the_base_s_answers_and_a_file_s_texts() -> None:
    found = stages(plan_study(spec_of("tiny"), TWO_CORES))["retention"]
    assert found.size == "9 models x 256 answers"
    more = stages(plan_study(spec_of("tiny", "functions.texts=mine.jsonl"), TWO_CORES))["retention"]
    assert more.size == "9 models x 256 answers, 256 texts"
    assert more.operations > 2 * found.operations


def test_soups_are_models_to_evaluate_and_to_hold_against_the_base() -> None:
    found = stages(plan_study(spec_of("tiny", "soups=sft+dpo,mean(sft+rft)"), TWO_CORES))
    assert found["soups: evaluate"].operations == pytest.approx(found["evaluate"].operations * 2 / 11)
    assert found["soups: retention"].operations == pytest.approx(found["retention"].operations * 3 / 9)
    bare, more = (plan_study(spec_of("tiny", *soups), TWO_CORES).disk["adapters"] for soups in ((), ("soups=sft+dpo",)))
    assert more / bare == pytest.approx(10 / 8)  # of twice the rank
    assert not any(name.startswith("soups") for name in stages(plan_study(spec_of("tiny"), TWO_CORES)))


def test_truncated_updates_are_two_models_a_rank_and_method() -> None:
    """Two ranks of six methods, without their replicates; a rank that the updates have or lack is skipped."""
    found = stages(plan_study(spec_of("tiny-why"), TWO_CORES))
    asked, measured = found["truncated: evaluate"], found["truncated: functions"]
    assert asked.size == "24 models x 1,719 problems, greedy"
    assert asked.operations == pytest.approx(found["evaluate"].operations * 24 / 11)
    assert (measured.tasks, measured.size) == (6, "6 models x 256 problems")
    assert measured.operations == pytest.approx(found["functions"].operations * 6 * 6 / 9)
    sft = spec_of("tiny", "methods=sft", "replicates=sft", "geometry.truncations=9,8,4", "functions.n=0")
    assert [(one.info.run, one.k) for one in sft.truncated(sft.runs())] == [("sft-leading-4", 4), ("sft-rest-4", 4)]
    assert "truncated: functions" not in stages(plan_study(sft, TWO_CORES))
    assert not any(name.startswith("truncated") for name in stages(plan_study(spec_of("tiny"), TWO_CORES)))


def test_kept_steps_are_followed_in_every_training_and_asked_where_that_is_wanted() -> None:
    """Eight trainings of 72 steps, whose adapter is the training's own at the last; six directions of gradients."""
    spec = spec_of("tiny-why", "train.keep_steps=5,10,72")
    plan, plain = (plan_study(one, TWO_CORES) for one in (spec, spec_of("tiny-why", "train.keep_steps=")))
    assert (stages(plan)["trajectories"].tasks, len(spec.kept(spec.runs()))) == (8, 16)
    assert stages(plan)["trajectories"].size == "2 steps and the end, 12 modules each"
    assert plan.disk["adapters"] - plain.disk["adapters"] == (16 + 6) * 4 * plan.lora
    assert "kept: evaluate" not in stages(plan)
    asked = stages(plan_study(spec_of("tiny-why", "train.keep_steps=5,10", "evaluation.kept_steps=true"), TWO_CORES))
    assert asked["kept: evaluate"].operations == pytest.approx(asked["evaluate"].operations * 16 / 11)
    assert not any("kept" in name or name == "trajectories" for name in stages(plain))


def test_an_on_policy_method_samples_in_every_step() -> None:
    """At most its own number of steps, each with a batch of answers decoded: hours where a row method takes minutes."""
    found = stages(plan_study(spec_of("paper", "methods=sft,online_grpo"), named("H100")))
    assert found["train online_grpo"].size == "600 steps, 26.5 M tokens"  # x 32 x 1,378.8
    assert found["train online_grpo"].seconds > 10 * found["train sft"].seconds


def test_distillation_is_planned_with_its_sampling_and_the_teacher() -> None:
    """Beside a row method's: a forward pass of a model like the base and the decoding; its weights are held as well."""
    own = "distillation.teacher=Qwen/Qwen3-4B"
    alone = plan_study(spec_of("paper", "methods=sft"), named("H100"))
    plan = plan_study(spec_of("paper", "methods=sft,distillation", own), named("H100"))
    found = stages(plan)
    assert found["train distillation"].size == found["train sft"].size
    assert found["train distillation"].operations > 1.3 * found["train sft"].operations
    assert found["train distillation"].seconds > 10 * found["train sft"].seconds
    assert plan.training.weights == 2 * alone.training.weights


def test_phases_are_planned_each_by_itself() -> None:
    """500 steps of SFT and 500 of DPO, whose pairs are two sequences and held against a policy, not the base."""
    found = stages(plan_study(spec_of("paper", "methods=sft,dpo,sft_dpo"), named("H100")))
    assert found["train sft_dpo"].size == "1,000 steps, 66.2 M tokens"  # 500 x 32 x (1 + 2) x 1,378.8
    # DPO's own reference is stored once for all; here it is a forward pass in every step.
    half = (found["train sft"].operations + found["train dpo"].operations) / 2
    assert half * 1.1 < found["train sft_dpo"].operations < half * 1.35
    assert found["reference"].tasks == 1
    assert "reference" not in stages(plan_study(spec_of("paper", "methods=sft_dpo"), named("H100")))


def test_operations_are_proportional_to_steps_and_times_to_devices() -> None:
    one = plan_study(spec_of("paper"), named("H100"))
    two = plan_study(spec_of("paper", "train.steps=500"), named("2xH100"))
    assert stages(one)["train sft"].operations == 2 * stages(two)["train sft"].operations
    assert stages(two)["evaluate"].tasks == 2
    assert two.hours < one.hours
    assert one.device_hours == pytest.approx(sum(stage.device_seconds for stage in one.stages) / 3600)


def test_the_paper_s_plan_by_hand() -> None:
    """Rows: 40,315 x 4. Tokens: 1,000 x 32 x (150 + .3 x 4096). Adapters: six of 94,371,840 bytes."""
    plan = plan_study(spec_of("paper"), named("8xH100"))
    assert (plan.sizes.rows, plan.sizes.evaluated) == (161_260, 1_349)
    assert stages(plan)["train sft"].size == "1,000 steps, 44.1 M tokens"
    assert stages(plan)["reference"].size == "4,032 rows, once"  # 5 % of 40,315 problems, one pair each
    assert plan.disk["adapters"] == 6 * 94_371_840
    assert plan.disk["checkpoints"] == 6 * 2 * 12 * 23_592_960
    assert plan.disk["base"] == 2 * 4_022_468_096
    assert plan.refusals == []


def test_second_moments_are_planned_and_refused_where_they_do_not_fit() -> None:
    """36 layers of Qwen3-4B: 2,560^2 of q, k and v, 4,096^2 of o, 9,728 x 513 of down_proj, 4 bytes each."""
    plan = plan_study(spec_of("paper"), named("H100"))
    assert plan.disk["second moments"] == 36 * 4 * (2560**2 + 4096**2) == 3_359_637_504
    assert stages(plan)["second moments"].size == "256 problems, 72 inputs, 3,359.6 MB"
    every = "lora.targets=q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
    more = plan_study(spec_of("paper", every), named("H100")).disk["second moments"]
    assert more == 36 * 4 * (2 * 2560**2 + 4096**2 + 9728 * 513)
    # Beside 16.1 GB of float32 weights and half a GB of the worker's own:
    small = replace(named("RTX4090"), memory=21e9)
    assert refusals(spec_of("paper", every), small) == [
        "geometry.activations: the weights and the second moments of their inputs take 21.6 GB of a device, and the "
        "smallest here has 21.0; --set geometry.activations=0 leaves that cosine out"
    ]
    off = spec_of("paper", every, "geometry.activations=0")
    assert refusals(off, small) == []
    assert "second moments" not in {*plan_study(off, small).disk, *stages(plan_study(off, small))}


def test_a_mean_length_that_is_known_is_used() -> None:
    assert plan_study(spec_of("paper"), named("H100"), 650.0).sizes.example == 800
    assert "(--tokens)" in plan_study(spec_of("paper"), named("H100"), 650.0).sizes.source


def test_examples_are_no_longer_than_what_is_kept() -> None:
    assert plan_study(spec_of("paper"), named("H100")).sizes.longest == 150 + 4096
    short = plan_study(spec_of("paper", "model.max_length=2048"), named("H100"))
    assert short.sizes.longest == 2048
    assert short.training.least < plan_study(spec_of("paper"), named("H100")).training.least


def test_pairs_share_one_file_of_the_base_s_log_probabilities() -> None:
    plan = plan_study(spec_of("paper", "methods=dpo,ipo"), named("H100"))
    assert [stage.name for stage in plan.stages].count("reference") == 1
    live = plan_study(spec_of("paper", "methods=dpo,ipo", "train.reference=live"), named("H100"))
    assert "reference" not in stages(live)
    assert stages(live)["train ipo"].operations > 1.3 * stages(plan)["train ipo"].operations


def test_rollouts_of_a_file_are_counted(tmp_path: Path) -> None:
    """4 rows of 7 + 28 characters: 2 and 8 tokens; one in ten problems is held out, rounded."""
    rows = [{"prompt": f"1 + {i} =", "completion": "x" * 28, "reward": float(i % 2)} for i in range(4)]
    file = tmp_path / "rollouts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = preset("paper")
    values["rollouts"] = {"file": str(file), "holdout": 0.0}
    sizes = plan_study(build(values), named("H100")).sizes
    assert (sizes.rows, sizes.prompts, sizes.prompt, sizes.completion, sizes.longest) == (4, 0, 2.0, 8.0, 10)


# --- refusals ---------------------------------------------------------------------------------------------------------


def refusals(spec: StudySpec, machine: Machine) -> list[str]:
    return plan_study(spec, machine).refusals


def cpu(memory: float) -> Machine:
    return Machine("1 CPU slot", "cpu", 1, memory, 1e11, 1e10, "given", local=False)


def test_a_large_base_without_a_gpu() -> None:
    (refused,) = refusals(spec_of("paper", "train.precision=auto"), cpu(500e9))
    assert refused.startswith(
        "model.base: Qwen/Qwen3-4B-Instruct-2507 has 4.0 billion parameters and this machine no GPU"
    )
    assert refused.endswith("(--dry-run --on 8xH100 plans for it), or --set model.allow_cpu=true")
    assert refusals(spec_of("paper", "model.allow_cpu=true"), cpu(500e9)) == []
    assert refusals(spec_of("paper", "model.base=Qwen/Qwen3-0.6B"), cpu(500e9)) == []


def test_a_device_that_is_too_small() -> None:
    off = spec_of("paper", "train.gradient_checkpointing=off")
    assert refusals(off, named("RTX4090")) == [
        "model.base: to train one adapter takes 37 GB of a device, and the smallest here has 24; "
        "train.gradient_checkpointing=auto, a smaller model.base, a lower rollouts.max_new_tokens or model.max_length"
    ]
    assert refusals(spec_of("paper"), named("RTX4090")) == []
    (refused,) = refusals(spec_of("tiny"), cpu(5e8))
    assert refused.endswith("or model.max_length, or a lower COLINEAR_SLOTS")


def test_a_disk_that_is_too_small(state: Path) -> None:
    (refused,) = _disk_refusals({"base": 1e18, "rollouts": 1e18})
    assert refused.startswith("disk: the study writes about 2,000,000,000.0 GB to ")
    assert refused.endswith("GB are free; free some, or set COLINEAR_HOME (and HF_HOME for the base) to another disk")
    assert _disk_refusals({"base": 0.0, "rollouts": 1.0}) == []


def test_before_a_study_starts_the_same_is_refused(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("COLINEAR_RAY", raising=False)
    with pytest.raises(InputError, match=r"^model\.base: .* 4\.0 billion parameters and this machine no GPU"):
        check_machine(spec_of("paper"))
    assert check_machine(spec_of("tiny"))
    unknown: Any = spec_of("paper", "model.base=nobody/nothing")
    assert not check_machine(unknown)  # it must be fetched before anything can be said


def test_the_nodes_of_a_cluster_are_not_this_machine(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("COLINEAR_RAY", "head:6379")
    assert check_machine(spec_of("paper"))
