"""What the report says where pretraining missed an aim, and what is said of few mixed groups before any training."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from flows.cli.terminal import StudyDisplay
from flows.notes.world import world_notes
from flows.record import Recorder
from tasks.core.events import Event, listening
from tasks.core.results import ArtifactRef, StageResult
from tasks.core.sections import TinySpec
from tasks.settings.presets import preset
from tasks.settings.study import build

SPEC = TinySpec(branch_steps=290, style_mass=0.06)


def result(stage: str, **summary: Any) -> StageResult:
    return StageResult(stage, stage, ArtifactRef("", "", stage, ""), 0.0, summary=summary)


def pretrained(**summary: Any) -> StageResult:
    reached = {"teacher_reached": True, "start_near": True, "style_mass": 0.06}
    return result("pretrain", **{**reached, "student_accuracy": 0.975, "student_asked_accuracy": 0.86, **summary})


def test_why_imitation_loses_is_told_where_the_student_branched_off() -> None:
    assert world_notes([pretrained(), result("train")], SPEC) == [
        "The student was made better in its own style (97.5% of the dev problems right) than in the teacher's (86.0% "
        "when asked for it), so imitation loses here by construction; that it does so for this reason in the paper is "
        "a hypothesis."
    ]
    assert world_notes([pretrained()], SPEC.model_copy(update={"branch_steps": 0})) == []


def test_each_missed_aim_has_a_line() -> None:
    assert world_notes([pretrained(teacher_reached=False, start_near=False)], SPEC)[:-1] == [
        "The teacher did not reach tiny.teacher_accuracy within tiny.max_steps.",
        "No snapshot was within .1 of tiny.branch_accuracy: the student comes from the nearest.",
    ]
    # .06 / 1.5 = .04 and .06 * 1.5 = .09
    assert len(world_notes([pretrained(style_mass=0.041)], SPEC)) == 1
    assert len(world_notes([pretrained(style_mass=0.089)], SPEC)) == 1
    for mass, words in ((0.039, "3.9%"), (0.091, "9.1%")):
        _, note = world_notes([pretrained(style_mass=mass)], SPEC)
        assert note.startswith(
            f"The student begins {words} of its answers in the teacher's style unasked, not the 6.0%"
        )
    assert world_notes([pretrained(style_mass=0.2)], SPEC.model_copy(update={"branch_steps": 0})) == []


def test_few_mixed_groups_are_said_at_once_and_on_the_terminal() -> None:
    told: list[Event] = []
    record = Recorder(build(preset("tiny")), None)
    graded = {"rows": 384, "prompts": 600, "correct": 300}
    with listening(told.append):
        record.doubt_rewards(result("grade", **graded, mixed_groups=99))
        record.doubt_rewards(result("grade", **graded, mixed_groups=100))
    (event,) = told
    assert (event.kind, event.name) == ("doubt", "grade")
    assert "rollouts.prompts, or change rollouts.temperature" in event.note
    screen = io.StringIO()
    with StudyDisplay(Console(file=screen, width=1000)) as display:
        display(event)
    assert "warning" in screen.getvalue()
    assert "grade: Only 99 of 600 problems have both right and wrong rollouts" in screen.getvalue()
