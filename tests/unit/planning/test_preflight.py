"""What is refused before any work starts, on settings, rollouts and a base of one's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tasks.core.errors import InputError
from tasks.methods import Methods
from tasks.planning import preflight as module
from tasks.planning.preflight import check_selections, preflight
from tasks.rollouts.files import heldout_split, read_rollouts
from tasks.settings.presets import preset
from tasks.settings.study import StudySpec, build, override
from tasks.workers.devices import run_unpinned
from tests.lab.refusals import refusal as refused

pytestmark = pytest.mark.usefixtures("state")
SHORT = ("rollouts.max_new_tokens=32", "evaluation.max_new_tokens=32")
"""Of the 64 tokens that the base of these tests holds."""
NAMES = [f"p{i}" for i in range(10)]
HELD = heldout_split(NAMES, 0.1)
refusal = partial(refused, preflight)


def world(*assignments: str) -> StudySpec:
    return build(override(preset("tiny"), assignments))


# --- the synthetic task ----------------------------------------------------------------------------------------------


def test_presets_of_the_embedded_world_pass() -> None:
    for name in ("tiny", "smoke"):
        assert preflight(build(preset(name))) is None


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("tiny.step_mix=.5,.4,.4", "tiny.step_mix: shares (0.5, 0.4, 0.4) must be >= 0 and sum to 1"),
        ("tiny.hard_steps=5,4", "tiny.hard_steps: need 1 <= fewest <= most"),
        ("tiny.heads=3", "tiny.heads: 3 heads"),
        ("lora.targets=q_proj,c_attn", "lora.targets: the base has no module 'c_attn'; it has q_proj, k_proj, "),
        ("model.prompt_template={question}", "model.prompt_template: the synthetic task has its own"),
        ("model.pad_token=<pad>", "model.pad_token: the synthetic task has its own"),
        ("model.max_length=50", "model.max_length: the synthetic task has its own"),
        ("evaluation.problems=mine.jsonl", "evaluation.problems: the synthetic task has its own"),
        ("functions.texts=nowhere.jsonl", "functions.texts: nowhere.jsonl: no such file"),
        ("rollouts.engine=openai", "rollouts.engine: the synthetic task's teacher is here; use transformers or vllm"),
    ],
)
def test_what_the_embedded_world_cannot_do_is_refused(assignment: str, message: str) -> None:
    assert refusal(world(assignment)).startswith(message)


def test_a_place_that_cannot_hold_the_report_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    assert refusal(world(), tmp_path / "file") == f"--out: {tmp_path / 'file'} is a file; give a folder"
    below = tmp_path / "file" / "a" / "b"
    assert refusal(world(), below) == f"--out: {tmp_path / 'file'} is a file; give a folder"
    assert preflight(world(), tmp_path / "new" / "folder") is None
    assert not (tmp_path / "new").exists()
    assert not list(tmp_path.glob(".colinear-*"))
    # Nobody may write there, root included.
    assert refusal(world(), Path("/proc/new")).startswith("--out: /proc cannot be written to (")


def test_a_bad_number_of_slots_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("COLINEAR_SLOTS", "many")
    assert refusal(world()) == "COLINEAR_SLOTS: expected a whole number of at least 1, got 'many'"


# --- one's own -------------------------------------------------------------------------------------------------------

Own = Callable[..., StudySpec]


def rows(**rewards: tuple[int, ...] | None) -> list[dict[str, Any]]:
    """Rows of ten problems; a problem's rewards are (0, 1) unless given; None leaves its label out."""
    found = []
    for name in NAMES:
        for reward in rewards.get(name, rewards.get("others", (0, 1))) or (None,):
            said = "4" if reward else "5"
            found.append(
                {"problem_id": name, "prompt": f"{name}?", "completion": said, "answer": "4", "reward": reward}
            )
    return found


@pytest.fixture
def own(base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Own:
    """Settings for a base and rollouts of one's own; the base is checked in this process unless asked otherwise."""

    def here(function: Any, kwargs: dict[str, Any], *, log: Path) -> Any:
        return function(**kwargs)

    monkeypatch.setattr(module, "run_unpinned", here)

    def spec(content: list[dict[str, Any]], *assignments: str, base: object = base_model) -> StudySpec:
        file = tmp_path / "mine.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in content))
        given = [f"model.base={base}", f"rollouts.file={file}", SHORT[1], *assignments]
        return build(override(preset("own"), given))

    return spec


@pytest.mark.slow
def test_a_base_and_rollouts_that_fit_are_accepted(own: Own, base_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "run_unpinned", run_unpinned)  # once through a real worker
    found = preflight(own(rows(), "model.max_length=40", r"model.prompt_template=Q: {question}\n"))
    assert found is not None
    assert (found.ref.uri, found.ref.kind, found.max_length) == (str(base_model), "external-model", 40)
    assert found.prompt_template == "Q: {question}\n"
    assert found.turn is not None
    assert found.turn.prompt == " ".join("Q: What is 1 + 1?\n")  # this tokenizer decodes character by character
    assert (found.turn.rule, found.template_date) == (None, "2024-07-26")


@pytest.mark.parametrize("where", ["rollouts", "problems"])
def test_questions_that_were_through_a_template_are_refused(own: Own, tmp_path: Path, where: str) -> None:
    rendered = "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"
    file = tmp_path / "problems.jsonl"
    file.write_text(json.dumps({"question": rendered, "answer": "2"}))
    if where == "rollouts":
        given = own([row | ({"prompt": rendered} if row["problem_id"] == "p1" else {}) for row in rows()])
        said = "line 3, field `prompt`: expected the bare question, got a rendered chat template (with '<|im_start|>')"
    else:
        given = own(rows(), f"evaluation.problems={file}")
        said = "evaluation.problems: a question holds '<|im_start|>', a mark of chat templates, and would be "
    assert said in refusal(given)


@pytest.mark.slow
def test_what_the_worker_refuses_comes_back_as_one_line(
    own: Own, variant: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "run_unpinned", run_unpinned)
    base = variant("plain", chat_template=None)
    assert refusal(own(rows(), base=base)).startswith("model.prompt_template: the base has no chat template; give one")


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("model.prompt_template=no field", "model.prompt_template: expected {question} exactly once, got 'no field'"),
        ("evaluation.problems=none.jsonl", "none.jsonl: no such file"),
        ("rollouts.holdout=0", "evaluation.problems: rollouts.holdout is 0, so there is nothing to evaluate on"),
        ("rollouts.file=none.parquet", "none.parquet: no such file"),
        ("model.base=/no/such/folder", "model.base: no folder '/no/such/folder'"),
        ("model.max_length=65", "model.max_length: 65 tokens is beyond the model's context of 64"),
        ("lora.targets=c_attn", "lora.targets: the base has no module 'c_attn'; it has down_proj, "),
        ("model.pad_token=<none>", "model.pad_token: '<none>' is not in the tokenizer of "),
        ("offline_grpo.clip=0.2", "offline_grpo.clip: 18 rollouts have no behaviour log-probabilities"),
    ],
)
def test_settings_that_do_not_fit_are_refused(own: Own, assignment: str, message: str) -> None:
    assert refusal(own(rows(), assignment)).startswith(message)


def test_columns_and_the_template_decide_how_rollouts_are_read(own: Own) -> None:
    rendered = [{**row, "question": row["prompt"], "prompt": f"<|im_start|>user\n{row['prompt']}"} for row in rows()]
    said = refusal(own(rendered))
    assert "line 1, field `prompt`: expected the bare question, got a rendered chat template" in said
    assert "(rollouts.fields.prompt=question)" in said
    assert preflight(own(rendered, "rollouts.fields.prompt=question")) is not None
    bare = [{key: value for key, value in row.items() if key != "question"} for row in rendered]
    assert preflight(own(bare, "model.prompt_template={question}")) is not None


def test_rollouts_without_gold_need_problems(own: Own, tmp_path: Path) -> None:
    bare = [{name: value for name, value in row.items() if name != "answer"} for row in rows()]
    assert refusal(own(bare)).startswith("evaluation.problems: the rollouts carry no gold answers to evaluate against")
    problems = tmp_path / "problems.jsonl"
    problems.write_text('{"question": "q", "answer": "1"}\n')
    assert preflight(own(bare, f"evaluation.problems={problems}")) is not None


def test_benchmarks_alone_are_enough_to_be_judged_by(own: Own, tmp_path: Path) -> None:
    """Nothing held out, or no gold to hold out: the study then measures on the first benchmark's problems."""
    judge = tmp_path / "judge.jsonl"
    judge.write_text('{"question": "q", "answer": "1"}\n')
    assert preflight(own(rows(), "rollouts.holdout=0", f"evaluation.benchmarks={judge}")) is not None
    bare = [{name: value for name, value in row.items() if name != "answer"} for row in rows()]
    assert preflight(own(bare, f"evaluation.benchmarks={judge}")) is not None
    judge.write_text("".join(f'{{"question": "q{i}", "answer": "{{"}}\n' for i in range(3)))
    said = refusal(own(rows(), "rollouts.holdout=0", f"evaluation.benchmarks={judge}"))
    assert said.startswith(f"evaluation.benchmarks: {judge}: the gold of problem 'p-")
    assert said.endswith("cannot be read as an answer: '{' (and 2 more); correct it or leave it out")
    unreadable = [{**row, "answer": "{"} for row in rows()]
    assert refusal(own(unreadable)).startswith("rollouts.holdout: the grader can read no gold answer of the 1 problems")


def test_a_method_without_anything_to_train_on_is_refused_and_can_be_left_out(own: Own) -> None:
    wrong = rows(others=(0, 0))
    assert refusal(own(wrong)).startswith("methods: rft needs at least one rollout with reward 1 and there is none")
    assert refusal(own(wrong, "methods=sft,dpo")).startswith("methods: dpo needs a problem with both a correct and a")
    assert preflight(own(wrong, "methods=sft,dft")) is not None
    right = rows(others=(1, 1))
    assert refusal(own(right)).startswith("methods: dpo needs a problem with both a correct and a wrong rollout")
    assert preflight(own(right, "methods=sft,rft")) is not None


def test_what_is_held_out_does_not_count(own: Own) -> None:
    (held,) = HELD  # a tenth of ten problems: this one, by its hash
    only_held = rows(others=(0, 0), **{held: (0, 1)})
    assert refusal(own(only_held)).startswith("methods: rft needs at least one rollout with reward 1")
    assert preflight(own(rows(others=(0, 0), **{next(n for n in NAMES if n != held): (0, 1)}))) is not None


def test_with_a_label_missing_the_grader_decides_later(own: Own) -> None:
    assert preflight(own(rows(others=(0, 0), p0=None, p1=None))) is not None


# --- rollouts that will be sampled -----------------------------------------------------------------------------------


@pytest.fixture
def taught(own: Own, base_model: Path, tmp_path: Path) -> Callable[..., StudySpec]:
    """Settings for a base of one's own whose rollouts `base_model` is to be asked for."""
    file = tmp_path / "problems.jsonl"
    file.write_text("".join(json.dumps({"question": f"{name}?", "answer": "4"}) + "\n" for name in NAMES))

    def spec(*assignments: str) -> StudySpec:
        given = [f"model.base={base_model}", f"rollouts.problems={file}", f"rollouts.teacher={base_model}"]
        return build(override(preset("own"), [*given, *SHORT, *assignments]))

    return spec


@pytest.mark.slow
def test_a_teacher_and_problems_that_fit_are_accepted(taught: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "run_unpinned", run_unpinned)  # once through a real worker
    assert preflight(taught()) is not None
    assert preflight(taught("offline_grpo.clip=0.2")) is not None  # one tokenizer: the log-probabilities are kept


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["rollouts.problems=gsm8k"], "rollouts.problems: 'gsm8k' is there to be judged by; train on one of gsm8k-tr"),
        (["rollouts.problems=none.jsonl"], "none.jsonl: no such file"),
        (["rollouts.teacher=/no/such"], "rollouts.teacher: no folder '/no/such'"),
        (["rollouts.prompts=1"], "rollouts.holdout: 1 problem cannot be split; set it to 0 or bring more problems"),
        (["rollouts.holdout=0"], "evaluation.problems: rollouts.holdout is 0, so there is nothing to evaluate on"),
        (["rollouts.teacher_template=x"], "rollouts.teacher_template: expected {question} exactly once, got 'x'"),
        (["rollouts.max_new_tokens=64"], "rollouts.max_new_tokens: 64 tokens leave no room for a prompt"),
        (
            ["rollouts.engine=openai", "rollouts.endpoint=http://127.0.0.1:9/v1", "rollouts.key_env=NO_SUCH_KEY"],
            "rollouts.key_env: the environment variable that it names is not set; export the endpoint's key under that",
        ),
        pytest.param(
            ["rollouts.engine=openai", "rollouts.endpoint=http://127.0.0.1:9/v1", "rollouts.key_env=null",
             "rollouts.retries=0"],
            "rollouts.endpoint: http://127.0.0.1:9/v1 gave no usable answer in 3 tries; last: the connection failed (",
            marks=pytest.mark.slow,  # it waits between its tries
        ),
        (
            ["rollouts.engine=openai", "rollouts.endpoint=http://127.0.0.1:9/v1", "rollouts.key_env=null",
             "offline_grpo.clip=0.2"],
            "offline_grpo.clip: it needs the teacher's log-probabilities of the base's own tokens",
        ),
    ],
)  # fmt: skip
def test_sampling_that_cannot_work_is_refused(taught: Own, assignments: list[str], message: str) -> None:
    assert refusal(taught(*assignments)).startswith(message)


def test_no_vllm_is_said_before_any_work(taught: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLINEAR_VLLM_PYTHON", "/no/such/python")
    assert refusal(taught("rollouts.engine=vllm")).startswith("COLINEAR_VLLM_PYTHON: no program '/no/such/python'")
    assert refusal(world("rollouts.engine=vllm")).startswith("COLINEAR_VLLM_PYTHON: no program '/no/such/python'")


def test_what_has_no_vllm_in_it_is_said_before_any_work(taught: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLINEAR_VLLM_PYTHON", "/bin/true")
    expected = "COLINEAR_VLLM_PYTHON: /bin/true is no Python that works"
    for spec in (taught("rollouts.engine=vllm"), world("rollouts.engine=vllm"), world("evaluation.engine=vllm")):
        assert refusal(spec).startswith(expected)


def test_a_soup_of_more_ranks_than_vllm_takes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of rank 300 are one of 600."""
    stand_in = tmp_path / "python"
    stand_in.write_text("""#!/bin/sh\necho '{"version": "0.30.0", "cpu": true}'\n""")
    stand_in.chmod(0o755)
    monkeypatch.setenv("COLINEAR_VLLM_PYTHON", str(stand_in))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    vllm = ("evaluation.engine=vllm", "lora.r=300", "tiny.hidden=512")
    assert refusal(world(*vllm, "soups=sft+dpo")) == (
        "soups: rank 600 is above vLLM's largest, 512; set evaluation.engine=transformers"
    )
    assert preflight(world(*vllm)) is None


def test_a_teacher_that_vllm_cannot_compute_here_is_refused(
    taught: Own, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its heads have 8 dimensions."""
    stand_in = tmp_path / "python"
    stand_in.write_text("""#!/bin/sh\necho '{"version": "0.30.0", "cpu": true}'\n""")
    stand_in.chmod(0o755)
    monkeypatch.setenv("COLINEAR_VLLM_PYTHON", str(stand_in))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert refusal(taught("rollouts.engine=vllm")).startswith(
        "engine vllm: the teacher's attention heads have 8 dimensions, and on a CPU vLLM computes only 32"
    )


def test_a_pasted_key_is_refused_unrepeated_even_where_nobody_would_be_asked(
    taught: Own, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks like a variable's name; the settings, it among them, would be recorded."""
    monkeypatch.setattr(module, "_sampled", lambda *_: True)
    given = ["rollouts.engine=openai", "rollouts.endpoint=http://127.0.0.1:9/v1"]
    said = refusal(taught(*given, "rollouts.key_env=SK1234567890ABCDEF"))
    assert said.startswith("rollouts.key_env: the environment variable that it names is not set")
    assert "SK1234567890ABCDEF" not in said
    assert preflight(taught(*given, "rollouts.key_env=null")) is not None


def test_answers_longer_than_the_context_are_refused(own: Own) -> None:
    assert refusal(own(rows(), "evaluation.max_new_tokens=64")) == (
        "evaluation.max_new_tokens: 64 tokens leave no room for a prompt in the base's 64; lower it"
    )


def test_cheap_refusals_come_before_the_base_is_looked_at(own: Own) -> None:
    assert refusal(own([{"prompt": "q"}], base="/no/such/folder")).endswith(
        "rollouts.fields.completion (columns: prompt)"
    )


# --- after grading ---------------------------------------------------------------------------------------------------


def test_selections_are_checked_on_the_graded_rollouts(own: Own, tmp_path: Path) -> None:
    own(rows(others=(0, 0)))
    graded = read_rollouts(tmp_path / "mine.jsonl").with_columns(prompt_ids=pl.lit([1]), completion_ids=pl.lit([2]))
    graded.write_parquet(tmp_path / "graded.parquet")
    methods = Methods()
    check_selections({"sft": methods.sft, "rift": methods.rift}, tmp_path / "graded.parquet")
    with pytest.raises(InputError, match=r"^methods: dpo needs"):
        check_selections({"sft": methods.sft, "dpo": methods.dpo}, tmp_path / "graded.parquet")
