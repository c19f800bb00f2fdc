"""What the report says about an endpoint's refusals, its reasoning, and the vLLM that computed stages."""

from __future__ import annotations

from typing import Any

from flows.notes.rollouts import rollout_notes, unjudged
from flows.record import engine_versions
from tasks.core.results import ArtifactRef, StageResult
from tasks.settings.study import build


def result(stage: str, **summary: Any) -> StageResult:
    return StageResult(stage, stage, ArtifactRef("", "", stage, ""), 0.0, summary=summary)


def completions(**summary: Any) -> StageResult:
    usual = {"too_long_for_teacher": 0, "refused": 0, "refused_problems": "", "with_reasoning": 0, "reasoning": "drop"}
    return result("completions", **{**usual, **summary})


def test_refusals_and_reasoning_are_told() -> None:
    assert rollout_notes([completions()]) == []
    assert rollout_notes([completions(refused=2, refused_problems="p1, p7")]) == [
        "2 requests to the teacher's endpoint came back refused and are left out: of p1, p7."
    ]
    assert rollout_notes([completions(with_reasoning=1)]) == [
        "1 completion came with reasoning apart from the answer: it was left out (rollouts.reasoning=drop)."
    ]
    assert rollout_notes([completions(with_reasoning=30, reasoning="join")]) == [
        "30 completions came with reasoning apart from the answer: it stands before the answer in <think>...</think> "
        "(rollouts.reasoning=join)."
    ]


def read(**changes: str) -> StageResult:
    said = {"layout": "OpenR1-Math", "read_prompt": "problem", "read_completion": "generations",
            "read_reward": "correctness_math_verify", "read_answer": "answer", "not_read": "solution, uuid",
            "not_read_inside": "nothing"}  # fmt: skip
    return result("rollouts", **{**said, **changes})


def test_how_a_file_of_rollouts_was_read_is_told() -> None:
    note = (
        "How the file of rollouts was read: layout: OpenR1-Math; question: problem; completion: generations; reward: "
        "correctness_math_verify; reference answer: answer; columns that were not read: solution, uuid; left out of "
        "messages: nothing."
    )
    assert rollout_notes([read()]) == [note]
    assert rollout_notes([read(read_reward="1 for chosen, 0 for rejected")])[1:] == [
        "The rewards are those of preferences: a preferred completion need not be right."
    ]
    assert rollout_notes([result("rollouts", rows=3)]) == []  # sampled, or of an older cache


def test_the_vllm_that_computed_something_is_a_version_of_the_study() -> None:
    assert engine_versions([result("evaluate"), completions()]) == {}
    both = [result("evaluate", vllm="0.31.0"), completions(vllm="0.30.0"), result("evaluate", vllm="0.31.0")]
    assert engine_versions(both) == {"vllm": "0.30.0, 0.31.0"}


def test_cosines_without_a_floor_are_named_before_anything_runs() -> None:
    methods = {"methods": ["sft", "rft", "dpo"]}
    (said,) = unjudged(build(methods))  # SFT alone is trained twice: each other method is judged against it
    assert said.startswith("Cosines of rft and dpo among themselves have no noise floor")
    assert said.endswith("replicates=all trains every method in a second data order.")
    assert unjudged(build(methods | {"replicates": ["all"]})) == []
    assert unjudged(build(methods | {"replicates": ["sft", "rft"]})) == []  # only dpo is left
    (said,) = unjudged(build(methods | {"replicates": []}))
    assert said.startswith("No method is trained in a second data order, so no cosine has a noise floor")
    assert unjudged(build({"methods": ["sft"], "replicates": []})) == []
