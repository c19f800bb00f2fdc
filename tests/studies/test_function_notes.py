"""What the page says of problems and paths that were left out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flows.notes.functions import function_notes
from tasks.core.results import ArtifactRef, StageResult

REF = ArtifactRef("uri", "sha", "kind", "run")
READINGS = ("boxed", "solution", "accuracy")


def path(name: str, **changes: Any) -> StageResult:
    usual: dict[str, Any] = {
        "problems": 8,
        "split": "heldout",
        "solutions": 8,
        "too_long": 0,
        "boxes_with_unknown_tokens": 0,
    }
    return StageResult("path", f"path {name}", REF, 1.0, summary={**usual, "unmatchable": False, **changes})


def functions(**changes: Any) -> StageResult:
    usual: dict[str, Any] = {"problems": 9, "split": "heldout", "too_long": 0, "boxed_references": 0, "note": None}
    return StageResult("functions", "functions of all", REF, 1.0, summary={**usual, **changes})


def test_where_nothing_was_left_out_nothing_is_said() -> None:
    assert function_notes([], READINGS) == []
    assert function_notes([path("a~b"), path("a~c"), functions()], READINGS) == []


def test_each_thing_is_said_once_not_once_a_pair() -> None:
    lost = {"split": "gsm8k", "too_long": 3, "solutions": 6, "boxes_with_unknown_tokens": 2}
    results = [path("a~b", **lost), path("a~c", **lost), path("b~c", **lost)]
    assert function_notes(results, READINGS) == [
        "No problem was held out: the paths were measured on those of gsm8k.",
        "3 problems did not fit the context: passed over for the paths, and others taken.",
        "6 of 8 problems with a known solution: its cross-entropy on the paths is over those.",
        "2 boxed answers of the paths with tokens that the tokenizer does not know: the cross-entropy there is that of "
        "the unknown token.",
    ]
    assert len(function_notes(results, ("accuracy",))) == 2


def test_pairs_without_a_matched_path_are_named() -> None:
    results = [path(f"a~{i}", unmatchable=i > 0) for i in range(9)]
    assert function_notes(results[:3], READINGS) == [
        "No norm-matched path, since an update is zero or not finite: a~1 and a~2."
    ]
    assert function_notes(results, READINGS)[0].endswith("a~1, a~2, a~3, a~4, a~5 and 3 more.")


def test_what_functions_did_not_measure() -> None:
    reason = "no logit lens: the model has no final norm that all layers can share"
    found = function_notes([functions(note=reason, too_long=1, boxed_references=4)], READINGS)
    assert found == [
        "1 problem did not fit the context: passed over for hidden states and divergences, and others taken.",
        f"Hidden states and divergences: {reason}.",
        "4 of 9 problems without a known solution: logit lens and divergence are over the boxed answer there.",
    ]


def test_texts_that_were_cut_are_counted() -> None:
    kept = StageResult("retention", "retention of all", REF, 1.0, summary={"cut": 2})
    assert function_notes([kept], READINGS) == [
        "2 texts of functions.texts cut at 2,048 tokens or the model's context."
    ]
    assert function_notes([replace(kept, summary={"cut": 0})], READINGS) == []
