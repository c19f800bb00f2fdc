"""Held-out problems that somebody else made: JSONL or parquet with a question and a gold answer."""

from __future__ import annotations

import math
import re
from pathlib import Path

import polars as pl

from tasks.contracts import PROBLEMS, InputError
from tasks.rows import Row, name_of, question_id, read_rows, show

QUESTION = ("question", "problem", "prompt")
GOLD = ("answer", "gold", "ground_truth")
ID = ("problem_id", "id")


def read_problems(path: Path | str) -> pl.DataFrame:
    """The problems in a ``.jsonl`` or ``.parquet`` file, as the frame `PROBLEMS` with split ``heldout``.

    Question: ``question``, ``problem`` or ``prompt``, kept as it is. Gold: ``answer``, ``gold`` or ``ground_truth``. A
    gold that is a worked solution ending in a line ``#### 1,234`` (GSM8K) or ``A: 18`` becomes the solution, and that
    answer without thousands separators the gold; any other gold stays as it is, and the solution is the column
    ``solution`` where there is one. Id: ``problem_id`` or ``id``, else derived from the question.

    Raises `InputError`, one line with file, line (or row of a parquet file), field, expectation and way out, for a
    missing, empty or unreadable file, another suffix, invalid UTF-8 or JSON, a missing question or gold, and an id (or,
    without ids, a question) that occurs twice.
    """
    path = Path(path)
    seen: dict[str, str] = {}
    records: list[dict[str, str | None]] = []
    for row in read_rows(path):
        record = _problem(row)
        problem_id = str(record["problem_id"])
        if problem_id in seen:
            raise row.refuse(
                "problem_id",
                f"each problem once, but {show(problem_id)} is also in {seen[problem_id]}",
                "remove one, or give them different ids",
            )
        seen[problem_id] = row.where
        records.append(record)
    if not records:
        raise InputError(f"{name_of(path)}: expected at least one problem, got an empty file; write one problem a line")
    return pl.DataFrame(records, schema=PROBLEMS)


def _problem(row: Row) -> dict[str, str | None]:
    name, question = row.first(QUESTION)
    if not isinstance(question, str) or not question.strip():
        raise row.refuse(
            name,
            f"the question as a non-empty string, got {show(question)}",
            "give it as `question`, `problem` or `prompt`",
        )
    question = row.text(name, question)
    name, gold = row.first(GOLD)
    number = type(gold) is int or (isinstance(gold, float) and math.isfinite(gold))
    if not number and not (isinstance(gold, str) and gold.strip()):
        raise row.refuse(
            name,
            f"the gold answer as a non-empty string or a number, got {show(gold)}",
            "give it as `answer`, `gold` or `ground_truth`, or leave the problem out",
        )
    answer, solution = worked(row.text(name, str(gold)))
    if solution is None and row.values.get("solution") is not None:
        solution = row.values["solution"]
        if not isinstance(solution, str):
            raise row.refuse("solution", f"a string, got {show(solution)}", "correct it or leave it out")
        solution = row.text("solution", solution)
    return {
        "problem_id": _id(row, question),
        "split": "heldout",
        "question": question,
        "answer": answer,
        "solution": solution,
    }


def _id(row: Row, question: str) -> str:
    name, given = row.first(ID)
    if given is None:
        return question_id(question)
    if type(given) is not int and not (isinstance(given, str) and given):
        raise row.refuse(
            name,
            f"a non-empty string or an integer, got {show(given)}",
            "leave the field out to have it derived from the question",
        )
    return row.text(name, str(given))


_HASHES = re.compile(r"(?:^|\n)[ \t]*####[ \t]*(\S[^\n]*)\s*\Z")
_A_LINE = re.compile(r"\n[ \t]*A:[ \t]*(\S[^\n]*)\s*\Z")
_SEPARATED = re.compile(r"-?\$?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?")


def worked(gold: str) -> tuple[str, str | None]:
    """(bare answer, the worked solution it ended; None where the gold was bare already).

    ``"... so 9 * 2 = 18\\n#### 1,234" -> "1234"``; the closing line may also be ``A: 1,234``.
    """
    match = _HASHES.search(gold) or _A_LINE.search(gold)
    if match is None:
        return gold, None
    answer = match[1].strip()
    return (answer.replace(",", "") if _SEPARATED.fullmatch(answer) else answer), gold
