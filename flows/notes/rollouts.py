"""What a reader of the report must know about where the rollouts came from and what was left out of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks.core.results import StageResult
from tasks.methods import METHOD_TITLES
from tasks.reporting.notes import count, named
from tasks.settings.study import StudySpec

MOST_NAMED = 12
"""Trainings that a note names."""

THOUGHT = {"drop": "it was left out", "join": "it stands before the answer in <think>...</think>"}


def dropped(rollouts: StageResult) -> dict[str, Any]:
    """{rule: rows that it left out} of a stage of rollouts; only the rules that apply to it."""
    found = {"longer than model.max_length": rollouts.summary.get("dropped_too_long", 0)}
    if cut := rollouts.summary.get("dropped_truncated"):
        found["cut at the token limit (rollouts.truncated)"] = cut
    if silent := rollouts.summary.get("dropped_without_token"):
        found["no token of a prompt, or of a completion that was cut"] = silent
    return found


READ = {
    "layout": "layout",
    "read_prompt": "question",
    "read_completion": "completion",
    "read_reward": "reward",
    "read_answer": "reference answer",
    "not_read": "columns that were not read",
    "not_read_inside": "left out of messages",
}
"""Of a stage that read a file of rollouts: what its summary says -> in words."""


def read_as(rollouts: StageResult) -> dict[str, Any]:
    """{role: columns of the user's file that were read as it}; empty for rollouts that were sampled here."""
    said = rollouts.summary
    return {words: said[name] for name, words in READ.items() if name in said}


def few_examples(results: Sequence[StageResult], spec: StudySpec) -> list[str]:
    """A note that names the trainings whose whole selection is smaller than one step's batch.

    Methods that sample are not among them: their examples are prompts, which they are to see again and again.
    """
    batch_size = spec.train.batch_size
    sampling = tuple(f"{name} " for name in spec.methods if spec.method(name).kind == "prompts")
    trained = {result.name.removeprefix("train "): result for result in results if result.stage == "train"}
    counts = {name: int(result.summary["examples"] or 0) for name, result in trained.items()}
    few = {name: n for name, n in counts.items() if n < batch_size and not name.startswith(sampling)}
    if not few:
        return []
    who = named([f"{name}: {n}" for name, n in few.items()], MOST_NAMED)
    return [
        f"Fewer examples than train.batch_size ({batch_size}), so that every step holds some more than once and the "
        f"order of the data hardly matters: {who}."
    ]


def taught(spec: StudySpec) -> list[str]:
    """Which methods learn from more of the teacher than its rollouts."""
    names = [METHOD_TITLES[name] for name in spec.methods if spec.method(name).from_teacher]
    return [
        f"{name} follows the teacher's distribution over tokens at the student's own answers and sees no rollout: no "
        "pair with it compares two losses on identical rollouts, and its accuracy is outside the families of tests."
        for name in names
    ]


def unjudged(spec: StudySpec) -> list[str]:
    """Which cosines the runs asked for leave without a noise floor, and the setting that gives them one."""
    again = spec.asked(spec.replicates)
    if len(spec.methods) < 2 or set(again) >= set(spec.methods):
        return []
    way_out = "replicates=all trains every method in a second data order"
    if not again:
        return [f"No method is trained in a second data order, so no cosine has a noise floor to judge it: {way_out}."]
    alone = [name for name in spec.methods if name not in again]
    if len(alone) < 2:
        return []
    return [
        f"Cosines of {named(alone, MOST_NAMED)} among themselves have no noise floor, as none of them is trained in a "
        f"second data order: {way_out}."
    ]


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
        if result.stage == "rollouts" and (read := read_as(result)):
            columns = "; ".join(f"{role}: {column}" for role, column in read.items())
            notes.append(f"How the file of rollouts was read: {columns}.")
            if str(read["reward"]).startswith("1 for "):
                notes.append("The rewards are those of preferences: a preferred completion need not be right.")
        if result.stage == "rollouts" and (unknown := said.get("with_unknown_tokens")):
            what = f"{count(int(unknown), 'row')} of the rollouts with characters that the tokenizer does not know"
            notes.append(f"{what}: trained on as its unknown token.")
        if result.stage == "rollouts" and "shared_tokenizer" in said:
            kept, rows = int(said["exact_ids"] or 0), int(said["rows"] or 0)
            notes.append(
                "The teacher's own tokens and log-probabilities were kept."
                if said["shared_tokenizer"] and kept
                else f"{count(rows, 'completion')} of the teacher were tokenised anew for the base, without "
                "log-probabilities."
            )
    return notes
