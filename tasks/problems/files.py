"""Held-out problems that somebody else made: JSONL or parquet with a question and a gold answer."""

from __future__ import annotations

import hashlib
import json
import math
import re
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from tasks.contracts import PROBLEMS, InputError

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
    for where, values in _rows(path):
        record = _problem(where, values)
        problem_id = str(record["problem_id"])
        if problem_id in seen:
            raise _refused(
                where,
                "problem_id",
                f"each problem once, but {_show(problem_id)} is also in {seen[problem_id]}",
                "remove one, or give them different ids",
            )
        seen[problem_id] = where
        records.append(record)
    if not records:
        raise InputError(f"{_name(path)}: expected at least one problem, got an empty file; write one problem a line")
    return pl.DataFrame(records, schema=PROBLEMS)


def _problem(where: str, values: dict[str, Any]) -> dict[str, str | None]:
    name, question = _first(values, QUESTION)
    if not isinstance(question, str) or not question.strip():
        raise _refused(
            where,
            name,
            f"the question as a non-empty string, got {_show(question)}",
            "give it as `question`, `problem` or `prompt`",
        )
    question = _text(where, name, question)
    name, gold = _first(values, GOLD)
    number = type(gold) is int or (isinstance(gold, float) and math.isfinite(gold))
    if not number and not (isinstance(gold, str) and gold.strip()):
        raise _refused(
            where,
            name,
            f"the gold answer as a non-empty string or a number, got {_show(gold)}",
            "give it as `answer`, `gold` or `ground_truth`, or leave the problem out",
        )
    answer, solution = _worked(_text(where, name, str(gold)))
    if solution is None and values.get("solution") is not None:
        solution = values["solution"]
        if not isinstance(solution, str):
            raise _refused(where, "solution", f"a string, got {_show(solution)}", "correct it or leave it out")
        solution = _text(where, "solution", solution)
    return {
        "problem_id": _id(where, values, question),
        "split": "heldout",
        "question": question,
        "answer": answer,
        "solution": solution,
    }


def _id(where: str, values: dict[str, Any], question: str) -> str:
    name, given = _first(values, ID)
    if given is None:
        return "p-" + hashlib.sha256(question.encode()).hexdigest()[:16]  # as for rollouts: the same question, one id
    if type(given) is not int and not (isinstance(given, str) and given):
        raise _refused(
            where,
            name,
            f"a non-empty string or an integer, got {_show(given)}",
            "leave the field out to have it derived from the question",
        )
    return _text(where, name, str(given))


_HASHES = re.compile(r"(?:^|\n)[ \t]*####[ \t]*(\S[^\n]*)\s*\Z")
_A_LINE = re.compile(r"\n[ \t]*A:[ \t]*(\S[^\n]*)\s*\Z")
_SEPARATED = re.compile(r"-?\$?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?")


def _worked(gold: str) -> tuple[str, str | None]:
    """(bare answer, the worked solution it ended; None where the gold was bare already)."""
    match = _HASHES.search(gold) or _A_LINE.search(gold)
    if match is None:
        return gold, None
    answer = match[1].strip()
    return (answer.replace(",", "") if _SEPARATED.fullmatch(answer) else answer), gold


# --- reading; the counterpart for rollouts is in tasks.rollouts.files (stages do not import each other) --------------


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place named in errors, values) of every row, lazily; `InputError` for a file that cannot be read."""
    readers = {".jsonl": _jsonl, ".ndjson": _jsonl, ".parquet": _parquet}
    if path.suffix.lower() not in readers:
        raise InputError(f"{_name(path)}: expected a .jsonl or .parquet file; convert it, or rename it if it is one")
    try:
        if "\0" in str(path) or not path.is_file():
            raise InputError(f"{_name(path)}: no such file; check the path (it is relative to the current directory)")
        yield from readers[path.suffix.lower()](path)
    except OSError as error:
        raise InputError(f"{_name(path)}: cannot be read ({error.strerror or 'I/O error'}); check it") from error


def _jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            where = f"{_name(path)}, line {number}"
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip()
                values = json.loads(text) if text else {}
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{where}: expected UTF-8, got byte {error.object[error.start]:#04x} at {error.start}; "
                    "convert the file to UTF-8"
                ) from error
            except json.JSONDecodeError as error:
                raise InputError(
                    f"{where}: expected one JSON object a line, got invalid JSON at column {error.colno} "
                    f"({error.msg}); correct the line"
                ) from error
            except (ValueError, RecursionError) as error:  # an integer of > 4,300 digits; brackets nested too deep
                raise InputError(
                    f"{where}: expected JSON with numbers and nesting of ordinary size; correct the line"
                ) from error
            if not isinstance(values, dict):
                raise InputError(
                    f"{where}: expected one JSON object {{...}} a line, got {_show(values)}; correct the line"
                )
            if text:
                yield where, values


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        rows = pl.read_parquet(path).rows(named=True)
    except (Exception, pl.exceptions.PanicException) as error:  # the reader panics on some damaged files
        note = next(iter(str(error).splitlines()), type(error).__name__)[:120]
        raise InputError(
            f"{_name(path)}: expected a parquet file, got one that cannot be read ({note}); write it again"
        ) from error
    for number, values in enumerate(rows, start=1):
        yield f"{_name(path)}, row {number}", values


def _refused(where: str, field: str, expected: str, way_out: str) -> InputError:
    return InputError(f"{where}, field `{field}`: expected {expected}; {way_out}")


def _first(values: dict[str, Any], names: tuple[str, ...]) -> tuple[str, Any]:
    """The first of ``names`` that has a value, and the value; (first name, None) where none has."""
    name = next((name for name in names if values.get(name) is not None), names[0])
    return name, values.get(name)


def _text(where: str, field: str, text: str) -> str:
    """``text``, refused where it cannot be written as UTF-8 (JSON escapes can spell half a surrogate pair)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _refused(where, field, "valid Unicode, got half a surrogate pair", "correct the escape") from None
    return text


def _name(path: Path) -> str:
    return str(path).replace("\n", " ").replace("\r", " ")


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


def _show(value: object) -> str:
    """``value`` on one line, cut short, for an error message."""
    return "nothing" if value is None else _SHORT.repr(value).replace("\n", " ")
