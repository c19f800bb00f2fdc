"""The presets for GPUs: each number of the paper's protocol, what the second adds, what is said without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows.cli.main import main, study_spec
from tasks.core.errors import InputError
from tasks.core.results import RunInfo
from tasks.core.sections import flatten
from tasks.settings.presets import PRESETS, preset, summary
from tasks.settings.study import StudySpec, build, override
from tests.lab.gguf_maker import write_gguf

PROTOCOL: dict[str, Any] = {
    "seed": 42,
    "methods": ("sft", "rft", "dft", "rift", "offline_grpo", "dpo"),
    "model.base": "Qwen/Qwen3-4B-Instruct-2507",
    "rollouts.problems": "deepscaler",
    "rollouts.engine": "openai",  # DeepSeek-V4-Flash, at an endpoint
    "rollouts.k": 4,
    "lora.r": 32,
    "lora.alpha": 64.0,
    "lora.dropout": 0.0,
    "lora.targets": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "train.lr": 5e-6,
    "train.steps": 1000,  # reported
    "train.schedule_steps": 1500,
    "train.batch_size": 32,
    "train.scheduler": "cosine",
    "train.warmup": 0.05,
    "train.weight_decay": 0.01,
    "train.max_grad_norm": 1.0,
    "train.precision": "bfloat16",
    "dpo.beta": 0.1,
    "dpo.loss_type": "sigmoid",
    "offline_grpo.b": 0.1,
    "rift.correct_weight": 1.0,
    "rift.wrong_weight": -0.2,
    "evaluation.benchmarks": ("gsm8k", "aime2026"),
    "evaluation.n": 1319,
    "evaluation.samples": 0,  # greedy only
    "geometry.ks": (1, 5, 10),
    "paths.readings": ("boxed",),
    "functions.n": 100,
}


@pytest.mark.parametrize("field", PROTOCOL)
def test_the_paper_s_protocol(field: str) -> None:
    value: Any = build(preset("paper"))
    for name in field.split("."):
        value = getattr(value, name)
    assert value == PROTOCOL[field]


def test_the_paper_s_runs() -> None:
    """One a method, one initialisation, one order; DPO at a tenth of the rate."""
    runs = build(preset("paper")).runs()
    assert {(run.seed, run.data_seed) for run in runs} == {(42, 42)}
    assert {run.run: run.lr for run in runs} == dict.fromkeys(PROTOCOL["methods"], 5e-6) | {"dpo": pytest.approx(5e-7)}


def test_the_second_adds_and_changes_nothing_that_trains() -> None:
    """So that rollouts, and the six adapters, are found in the cache."""
    paper, fixed = (build(preset(name)) for name in ("paper", "paper-fixed"))
    for section in ("model", "rollouts", "lora", "train", *PROTOCOL["methods"]):
        assert getattr(paper, section) == getattr(fixed, section)
    assert fixed.runs()[:6] == paper.runs()
    assert fixed.runs()[6:8] == [
        RunInfo("dpo-lr5e-6", "dpo", 42, 42, 5e-6),
        RunInfo("sft-order43", "sft", 42, 43, 5e-6),
    ]
    assert [(run.method, run.seed, run.data_seed) for run in fixed.runs()[8:]] == [
        (method, 43, 42) for method in PROTOCOL["methods"]
    ]
    assert fixed.evaluation.samples == 16
    assert fixed.paths.matched
    assert not paper.paths.matched


def test_a_matched_run_is_asked_for_by_name() -> None:
    alone = {"matched": ["dpo"], "replicates": [], "init_replicates": []}
    assert build(alone).runs()[-1].run == "dpo-lr1e-3"
    assert build({"matched": ["dpo"], "train": {"lr": 2.5e-3}}).runs()[6].run == "dpo-lr2_5e-3"
    assert [run.run for run in build({"methods": ["sft"], "matched": ["dpo"]}).runs()] == [
        "sft", "sft-order1", "sft-init1"
    ]  # fmt: skip
    with pytest.raises(
        InputError, match=r"^matched: sft is trained at train\.lr as it is \(sft\.lr_ratio = 1\); leave"
    ):
        build({"matched": ["sft"]})


def test_a_schedule_does_not_end_before_its_training() -> None:
    with pytest.raises(
        InputError, match=r"^train\.schedule_steps: 79 is below train\.steps 80; the schedule cannot end"
    ):
        build(override({}, ["train.schedule_steps=79"]))


@pytest.mark.parametrize("name", ["paper", "paper-fixed"])
def test_rollouts_of_one_s_own_take_the_teacher_s_place(name: str, tmp_path: Path) -> None:
    spec = study_spec(name, [], str(tmp_path / "rollouts.jsonl"))
    assert spec.rollouts.file == str(tmp_path / "rollouts.jsonl")
    assert (spec.rollouts.problems, spec.rollouts.teacher, spec.rollouts.endpoint) == (None, None, None)
    assert (spec.rollouts.holdout, spec.rollouts.truncated) == (0.0, "drop")
    with pytest.raises(InputError, match=r"^rollouts\.problems: rollouts\.file has rollouts already; give one"):
        study_spec(name, ["rollouts.problems=deepscaler"], "rollouts.jsonl")  # asked for by the user, not by the preset


def test_no_setting_of_a_preset_repeats_another_section() -> None:
    """`paper-fixed` is written as differences from `paper`: these are all of them."""
    paper, fixed = (flatten(build(preset(name)).model_dump()) for name in ("paper", "paper-fixed"))
    assert {key for key in paper if paper[key] != fixed[key]} == {
        "name", "matched", "replicates", "init_replicates", "evaluation.samples", "geometry.base_measures",
        "paths.readings", "paths.matched", "gradients.n",
    }  # fmt: skip


def described(name: str) -> str:
    return " ".join(str(PRESETS[name].__doc__).split())


@pytest.mark.parametrize("name", ["paper", "paper-fixed"])
def test_a_preset_that_was_never_run_says_so(name: str) -> None:
    assert "ever run by us" in described(name) or "never been run by us" in described(name)
    assert "GB of disk" in described(name)
    assert "H100 hours" in described(name)
    assert len(summary(name)) < 120


@pytest.mark.parametrize(("name", "least"), [("qwen-0.5b", 400), ("smollm2", 100)])
def test_the_real_models_studies(name: str, least: int, tmp_path: Path) -> None:
    """Six methods, SFT once more in another order, and all asked and judged in one way."""
    spec = study_spec(name, [], str(tmp_path / "r.jsonl"))
    assert [run.run for run in spec.runs()] == [*PROTOCOL["methods"], "sft-order1"]
    assert spec.model.instruction == "Please reason step by step, and put your final answer within \\boxed{}."
    assert (spec.evaluation.problems, spec.rollouts.holdout, spec.paths.reference) == ("gsm8k-train", 0.0, "sft")
    assert spec.evaluation.n >= least
    assert spec.lora.targets == PROTOCOL["lora.targets"]
    assert spec.model.max_length is not None
    assert spec.evaluation.max_new_tokens < spec.model.max_length - 250  # tokens of the longest prompt there is: 236
    assert "make real-models`" in described("qwen-0.5b")
    with pytest.raises(InputError, match=r"^rollouts\.file: a base of one's own needs rollouts: --rollouts FILE, or"):
        study_spec(name, [], None)


# --- through the command line ----------------------------------------------------------------------------------------


@pytest.fixture
def no_gpu(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("DEEPSEEK_API_KEY", "secret")
    monkeypatch.delenv("COLINEAR_RAY", raising=False)


@pytest.mark.parametrize("name", ["qwen-0.5b", "smollm2"])
def test_a_dry_run_of_a_real_model_with_and_without_its_gguf_file(
    name: str, no_gpu: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    rows = [{"prompt": f"{i}?", "completions": ["4", "5"], "rewards": [1, 0], "answer": "4"} for i in range(9)]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["study", name, "--rollouts", str(tmp_path / "r.jsonl"), "--dry-run", "--on", "H100"]
    assert main(given) == 0
    assert "from the table of known shapes, as the model is not on this machine" in capsys.readouterr().out
    assert main([*given, "--set", f"model.base={file}"]) == 0
    out = capsys.readouterr().out
    assert f"base: {file}, 78,400 parameters, from its GGUF header, Q4_0" in " ".join(out.split())
    assert "dequantised base" in out
    file.write_bytes(file.read_bytes()[:5000])
    assert main([*given, "--set", f"model.base={file}"]) == 2
    assert capsys.readouterr().err.startswith(f"colinear: model.base: {file} is cut short or damaged: less is there")


NO_GPU = (
    "colinear: model.base: Qwen/Qwen3-4B-Instruct-2507 has 4.0 billion parameters and this machine no GPU; run the "
    "study where there is one (--dry-run --on 8xH100 plans for it), or --set model.allow_cpu=true\n"
)


@pytest.mark.parametrize("name", ["paper", "paper-fixed"])
def test_without_a_gpu_it_is_refused_at_once(name: str, no_gpu: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", name]) == 2
    assert capsys.readouterr() == ("", NO_GPU)


def test_a_dry_run_prints_the_plan_and_then_why_it_would_not_start(
    no_gpu: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", "paper", "--dry-run"]) == 2
    printed = capsys.readouterr()
    assert printed.err == NO_GPU
    assert printed.out.startswith(
        "Plan of paper: nothing is run\nbase: Qwen/Qwen3-4B-Instruct-2507, 4.02 billion param"
    )
    assert "LoRA: r = 32, 23.6 million parameters; 6 adapters: sft, rft, dft, rift, offline_grpo, dpo\n" in printed.out


@pytest.mark.parametrize("name", ["paper", "paper-fixed", "tiny", "smoke"])
def test_a_dry_run_that_could_start_is_exit_code_0(
    name: str, no_gpu: None, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = ["--on", "8xH100"] if name.startswith("paper") else []
    assert main(["study", name, "--dry-run", *elsewhere]) == 0
    out = capsys.readouterr().out
    for title in ("stage", "memory of one device", "disk", "train sft", "cached ?: known once `", "tokens: "):
        assert title in out, title
    assert not (state / "mlflow.db").exists()


def test_a_missing_key_is_said_where_the_study_could_run(no_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.cli.plan import dry_run

    monkeypatch.delenv("DEEPSEEK_API_KEY")
    spec: StudySpec = build(override(preset("paper"), ["model.base=Qwen/Qwen3-0.6B"]))
    with pytest.raises(InputError, match=r"^rollouts\.key_env: the environment variable"):
        dry_run(spec, None, on=None, tflops=None, completion=None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("tiny --on H100", "--on: it is for --dry-run; leave it out to run the study"),
        ("tiny --tflops 1", "--tflops: it is for --dry-run; leave it out to run the study"),
        (
            "tiny --dry-run --on H101",
            "--on H101: expected a GPU, or a number of one like 8xH100; known: B200, H200, H1",
        ),
        ("tiny --dry-run --tflops 0", "--tflops: expected a number above 0, got 0"),
        ("tiny --dry-run --tokens -3", "--tokens: expected a number above 0, got -3"),
        ("tiny --dry-run --out /proc", "--out: /proc cannot be written to ("),
        (
            "paper --dry-run --on H100 --set model.base=nobody/nothing",
            "model.base: no plan for 'nobody/nothing': not on",
        ),
        ("paper --rollouts none.jsonl --dry-run --on H100", ""),
    ],
)
def test_options_of_a_dry_run_are_refused(
    words: str, message: str, no_gpu: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", *words.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"colinear: {message}")
    assert error.count("\n") == 1


def test_a_dry_run_loads_neither_torch_nor_prefect(state: Path) -> None:
    code = (
        "import sys; from flows.cli.main import main; code = main(['study', 'paper', '--dry-run', '--on', 'H100'])\n"
        "print('loaded', sorted({'torch', 'transformers', 'prefect', 'mlflow'} & set(sys.modules))); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "loaded []"), done.stderr
