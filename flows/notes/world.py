"""What a reader of the report must know about how the synthetic task's models were made, and came out."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.core.results import StageResult
from tasks.core.sections import TinySpec
from tasks.core.stages import PRETRAIN

MASS_RANGE = (2 / 3, 3 / 2)
"""The mass of the teacher's style over tiny.style_mass: SFT's cosine to DFT moves by a tenth over half of it."""

MEASURED = ("style_mass", "student_accuracy", "student_asked_accuracy")


def world_notes(results: Sequence[StageResult], spec: TinySpec) -> list[str]:
    """One line on what the student was made to be, and one for each aim of pretraining that it missed."""
    notes = []
    for result in results:
        if result.stage != PRETRAIN.name:
            continue
        found = result.summary
        if not found["teacher_reached"]:
            notes.append("The teacher did not reach tiny.teacher_accuracy within tiny.max_steps.")
        if not found["start_near"]:
            notes.append("No snapshot was within .1 of tiny.branch_accuracy: the student comes from the nearest.")
        if not spec.branch_steps:
            continue
        mass, plain, asked = (float(found[name] or 0) for name in MEASURED)
        notes.append(
            f"The student was made better in its own style ({plain:.1%} of the dev problems right) than in the "
            f"teacher's ({asked:.1%} when asked for it), so imitation loses here by construction; that it "
            "does so for this reason in the paper is a hypothesis."
        )
        low, high = MASS_RANGE
        if not low <= mass / spec.style_mass <= high:
            notes.append(
                f"The student begins {mass:.1%} of its answers in the teacher's style unasked, not the "
                f"{spec.style_mass:.1%} of tiny.style_mass: raise tiny.branch_steps."
            )
    return notes
