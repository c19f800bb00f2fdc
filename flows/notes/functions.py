"""What the stages of paths and functions left out or could not measure, each thing once, for the study's page."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.core.results import StageResult
from tasks.core.stages import FUNCTIONS, PATH, RETENTION
from tasks.geometry.paths.texts import MOST_TOKENS
from tasks.reporting.notes import count, named

MOST_NAMED = 5
"""Paths that a note names."""


def function_notes(results: Sequence[StageResult], readings: Sequence[str]) -> list[str]:
    """Notes of the results of the stages ``path end``, ``path``, ``functions`` and ``retention``; ``readings``: the
    paths' own."""
    by_stage = {result.stage: result for result in results}  # all paths have the same problems: one speaks for all
    path, functions = by_stage.get(PATH.name), by_stage.get(FUNCTIONS.name)
    notes: list[str] = []
    found = {"the paths": path, "hidden states and divergences": functions}
    for what, result in found.items():
        if result is not None and result.summary["split"] != "heldout":
            notes.append(f"No problem was held out: {what} were measured on those of {result.summary['split']}.")
        if result is not None and result.summary["too_long"]:
            passed = count(int(result.summary["too_long"]), "problem")
            notes.append(f"{passed} did not fit the context: passed over for {what}, and others taken.")
    if path is not None:
        notes += _of_paths(path, readings)
        notes += _unmatched([result for result in results if result.stage == PATH.name])
    if functions is not None:
        notes += _of_functions(functions)
    if (retention := by_stage.get(RETENTION.name)) is not None and (cut := retention.summary["cut"]):
        notes.append(
            f"{count(int(cut), 'text')} of functions.texts cut at {MOST_TOKENS:,} tokens or the model's context."
        )
    return notes


def _of_paths(path: StageResult, readings: Sequence[str]) -> list[str]:
    problems, solutions = path.summary["problems"], path.summary["solutions"]
    notes = []
    if "solution" in readings and solutions != problems:
        notes.append(
            f"{solutions} of {problems} problems with a known solution: its cross-entropy on the paths is over those."
            if solutions
            else "No problem of the paths has a known solution: there is no path of its cross-entropy."
        )
    if "boxed" in readings and (unknown := path.summary["boxes_with_unknown_tokens"]):
        notes.append(
            f"{count(int(unknown), 'boxed answer')} of the paths with tokens that the tokenizer does not know: the "
            "cross-entropy there is that of the unknown token."
        )
    return notes


def _unmatched(paths: Sequence[StageResult]) -> list[str]:
    names = [path.name.removeprefix("path ") for path in paths if path.summary["unmatchable"]]
    if not names:
        return []
    return [f"No norm-matched path, since an update is zero or not finite: {named(names, MOST_NAMED)}."]


def _of_functions(functions: StageResult) -> list[str]:
    notes = []
    if note := functions.summary["note"]:
        notes.append(f"Hidden states and divergences: {note}.")
    if boxed := functions.summary["boxed_references"]:
        notes.append(
            f"{boxed} of {functions.summary['problems']} problems without a known solution: logit lens and divergence "
            "are over the boxed answer there."
        )
    return notes
