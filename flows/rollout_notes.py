"""What a reader of the report must know about where the rollouts came from and what was left out of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks.contracts import StageResult
from tasks.reporting.notes import count

THOUGHT = {"drop": "it was left out", "join": "it stands before the answer in <think>...</think>"}


def dropped(rollouts: StageResult) -> dict[str, Any]:
    """{rule: rows that it left out} of a stage of rollouts; only the rules that apply to it."""
    found = {"longer than model.max_length": rollouts.summary.get("dropped_too_long", 0)}
    if cut := rollouts.summary.get("dropped_truncated"):
        found["cut at the token limit (rollouts.truncated)"] = cut
    return found


def rollout_notes(results: Sequence[StageResult]) -> list[str]:
    """One line for each thing that sampling left out or could not keep."""
    notes = []
    for result in results:
        said = result.summary
        if result.stage == "prompts":
            notes.append(f"The teacher was asked {count(int(said['asked'] or 0), 'problem')} of {said['source']}.")
            if unread := said["unparsed_golds"]:
                notes.append(f"{count(int(unread), 'problem')} with a gold that the grader cannot read: not asked.")
        if result.stage == "completions" and (long := said["too_long_for_teacher"]):
            notes.append(f"{count(int(long), 'problem')} did not fit the teacher's context with an answer: not asked.")
        if result.stage == "completions" and (refused := said["refused"]):
            what = f"{count(int(refused), 'request')} to the teacher's endpoint"
            notes.append(f"{what} came back refused and are left out: of {said['refused_problems']}.")
        if result.stage == "completions" and (thought := said["with_reasoning"]):
            what = f"{count(int(thought), 'completion')} came with reasoning apart from the answer"
            notes.append(f"{what}: {THOUGHT[str(said['reasoning'])]} (rollouts.reasoning={said['reasoning']}).")
        if result.stage == "rollouts" and "shared_tokenizer" in said:
            kept, rows = int(said["exact_ids"] or 0), int(said["rows"] or 0)
            notes.append(
                "The teacher's own tokens and log-probabilities were kept."
                if said["shared_tokenizer"] and kept
                else f"{count(rows, 'completion')} of the teacher were tokenised anew for the base, without "
                "log-probabilities."
            )
    return notes
