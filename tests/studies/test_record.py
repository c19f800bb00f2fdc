"""What a study's record says of its problems, from the summaries of its stages."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest

from flows.record import Recorder, judged_by, unparsed_golds
from tasks.core.results import ArtifactRef, StageResult
from tasks.settings.presets import preset
from tasks.settings.study import StudySpec, build

SEEN = "shared_with_rollouts_dropped"


def result(stage: str, name: str, **summary: float | int | str | bool | None) -> StageResult:
    return StageResult(stage, name, ArtifactRef("u", "s", stage, "r"), 1.0, summary=summary)


@pytest.fixture
def tiny() -> StudySpec:
    return build(preset("tiny"))


def test_the_worlds_own_problems_are_named(tiny: StudySpec) -> None:
    problems = result("problems", "problems", heldout=200, hard=0, rollouts=1024, overlap=0)
    assert judged_by(tiny, problems) == [
        {"name": "heldout", "n": 200, "source": "made by the study", "template": "{question}", SEEN: 0}
    ]


def test_benchmarks_carry_template_and_source_and_the_rest_is_the_held_out_ones() -> None:
    spec = build({"rollouts": {"file": "mine.jsonl"}, "model": {"base": "x"}})
    found: dict[str, int | str] = {"n": 30, "template": "{question}\nBox it.", "source": "aime/a.jsonl", SEEN: 2}
    problems = result("problems", "problems", heldout=12, **{SEEN: 5}, **{f"aime.{k}": v for k, v in found.items()})
    assert judged_by(spec, problems) == [
        {"name": "heldout", "n": 12, "source": "held out of the rollouts", "template": "{question}", SEEN: 3},
        {"name": "aime", **found},
    ]


def test_golds_are_the_bases_and_what_did_not_fit_is_said_once_for_all_that_are_asked_alike(tiny: StudySpec) -> None:
    record = Recorder(tiny, None)
    counts = {"heldout.unparsed_golds": 2, "org/set.v1.unparsed_golds": 0, "boxed_references": 0}
    record.results = [
        result("evaluate", "evaluate sft", **{**counts, "heldout.unparsed_golds": 9}, too_long=1),
        result("evaluate", "evaluate base", **counts, too_long=1),
        result("evaluate", "evaluate base-instructed", **counts, too_long=4),
        result("evaluate", "evaluate teacher", **counts, too_long=0),
    ]
    assert unparsed_golds(record.results) == {"heldout": 2, "org/set.v1": 0}
    notes = [note for note in record._notes() if "did not fit" in note]
    assert notes == [
        "1 problem did not fit the context with prompt and answer: left out for sft and 1 more.",
        "4 problems did not fit the context with prompt and answer: left out for base-instructed.",
    ]


def test_a_stage_that_several_tasks_used_is_noted_once_as_it_was_computed(
    tiny: StudySpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    hit = replace(result("reference", "reference log-probabilities"), seconds=0.0, hit=True, cached_seconds=3.0)
    computed = replace(hit, seconds=3.0, hit=False)
    other = replace(hit, ref=replace(hit.ref, run_id="another"))
    trained = [replace(result("train", "train dpo"), used=(used,)) for used in (hit, computed, hit, other)]
    record = Recorder(tiny, None)
    monkeypatch.setattr("flows.record.wait", lambda futures: None)
    futures: list[Any] = [Future() for _ in trained]
    for future, one in zip(futures, trained, strict=True):
        future.set_result(one)
    assert record.stages(futures) == trained
    assert record.results == [*trained, computed, other]
    record.stages(futures[:1])
    assert record.results == [*trained, computed, other, trained[0]]
