"""Held-out problems that somebody else made: JSONL or parquet with a question and a gold answer."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import polars as pl

from tasks.core.errors import InputError
from tasks.core.frames import PROBLEMS
from tasks.core.rows import Row, name_of, number_text, question_id, read_rows, show

Gold = Literal["text", "number", "integer"]

USUAL = {
    "question": ("question", "problem", "prompt"),
    "answer": ("answer", "gold", "ground_truth"),
    "id": ("problem_id", "id"),
    "solution": ("solution",),
}
"""Names that are looked for, first come first served, where no mapping names the column."""
QUESTION_ALONE = "{question}"
"""The template that adds nothing."""


@dataclass(frozen=True)
class Layout:
    """How the rows of one source become PROBLEMS."""

    split: str = "heldout"
    fields: Mapping[str, str] = field(default_factory=dict)
    """``question``, ``answer``, ``id``, ``solution`` -> the column that holds it; the usual names where not given."""
    template: str = QUESTION_ALONE
    """What is asked: text with ``{question}`` in it. A source whose rows carry it already is not given it twice."""
    gold: Gold = "text"
    """``number`` and ``integer``: `normal_gold`; ``text``: as it is."""
    lenient: bool = False
    """Leave out rows without a gold answer and repeated questions, counted, instead of refusing them."""
    keep: Callable[[Row], bool] | None = None
    """Which rows of the source belong to it; None for all."""
    setting: str = "evaluation.fields"
    """Where a user names the columns; for errors."""


@dataclass(frozen=True)
class Problems:
    """A PROBLEMS frame and how many rows were left out of it (0 unless the layout is lenient)."""

    frame: pl.DataFrame
    without_gold: int = 0
    repeated: int = 0


def read_problems(path: Path | str, fields: Mapping[str, str] | None = None) -> pl.DataFrame:
    """The problems in a file or folder of shards (`tasks.core.rows.read_rows`): the frame `PROBLEMS`, split
    ``heldout``.

    Question: ``question``, ``problem`` or ``prompt``, kept as it is. Gold: ``answer``, ``gold`` or ``ground_truth``. A
    gold that is a worked solution ending in a line ``#### 1,234`` (GSM8K) or ``A: 18`` becomes the solution, and that
    answer without thousands separators the gold; any other gold stays as it is, and the solution is the column
    ``solution`` where there is one. Id: ``problem_id`` or ``id``, else derived from the question. ``fields`` names the
    columns where they are called otherwise (`Layout.fields`).

    Raises `InputError`, one line with file, line (or row of a parquet file), field, expectation and way out, for a
    missing, empty or unreadable file, another suffix, invalid UTF-8 or JSON, a missing question or gold, and an id (or,
    without ids, a question) that occurs twice.
    """
    path = Path(path)
    return collect(read_rows(path), name_of(path), Layout(fields=fields or {})).frame


def collect(rows: Iterable[Row], source: str, layout: Layout) -> Problems:
    """The problems in ``rows``, in their order. Raises `InputError` as `read_problems` does; ``source`` names them."""
    seen: dict[str, str] = {}
    records: list[dict[str, str | None]] = []
    without_gold = repeated = 0
    for row in rows:
        if layout.keep is not None and not layout.keep(row):
            continue
        if layout.lenient and not _has_gold(row, layout):
            without_gold += 1
            continue
        record = _problem(row, layout)
        problem_id = str(record["problem_id"])
        if problem_id in seen:
            if layout.lenient:
                repeated += 1
                continue
            raise row.refuse(
                "problem_id",
                f"each problem once, but {show(problem_id)} is also in {seen[problem_id]}",
                "remove one, or give them different ids",
            )
        seen[problem_id] = row.where
        records.append(record)
    if not records:
        raise InputError(f"{source}: expected at least one problem, got an empty file; write one problem a line")
    return Problems(pl.DataFrame(records, schema=PROBLEMS), without_gold, repeated)


def _has_gold(row: Row, layout: Layout) -> bool:
    _, gold = row.first(_names(layout, "answer"))
    return gold is not None and not (isinstance(gold, str) and not gold.strip())


def _names(layout: Layout, what: str) -> tuple[str, ...]:
    return (layout.fields[what],) if what in layout.fields else USUAL[what]


def _problem(row: Row, layout: Layout) -> dict[str, str | None]:
    name, question = row.first(_names(layout, "question"))
    if not isinstance(question, str) or not question.strip():
        raise row.refuse(
            name,
            f"the question as a non-empty string, got {show(question)}",
            f"give it as `question`, `problem` or `prompt`, or name its column in {layout.setting}",
        )
    question = unasked(row.text(name, question), layout.template)
    name, gold = row.first(_names(layout, "answer"))
    number = type(gold) is int or (isinstance(gold, float) and math.isfinite(gold))
    if not number and not (isinstance(gold, str) and gold.strip()):
        raise row.refuse(
            name,
            f"the gold answer as a non-empty string or a number, got {show(gold)}",
            f"give it as `answer`, `gold` or `ground_truth`, name its column in {layout.setting}, or leave the "
            "problem out",
        )
    answer, solution = worked(row.text(name, gold if isinstance(gold, str) else number_text(gold)))
    normal = normal_gold(answer, layout.gold)
    if normal is None:
        raise row.refuse(name, f"a gold that is one {layout.gold}, got {show(answer)}", "correct it")
    names = _names(layout, "solution")
    given = row.first(names)[1]
    if solution is None and given is not None:
        if not isinstance(given, str):
            raise row.refuse(names[0], f"a string, got {show(given)}", "correct it or leave it out")
        solution = row.text(names[0], given) or None
    return {
        "problem_id": _id(row, question, layout),
        "split": layout.split,
        "question": layout.template.replace("{question}", question),
        "answer": normal,
        "solution": solution,
    }


def _id(row: Row, question: str, layout: Layout) -> str:
    name, given = row.first(_names(layout, "id"))
    if given is None:
        return question_id(question)
    if type(given) is not int and not (isinstance(given, str) and given):
        raise row.refuse(
            name,
            f"a non-empty string or an integer, got {show(given)}",
            "leave the field out to have it derived from the question",
        )
    return row.text(name, str(given))


_HASHES = re.compile(r"[ \t]*####[ \t]*(\S.*)", re.DOTALL)
_A_LINE = re.compile(r"[ \t]*A:[ \t]*(\S.*)", re.DOTALL)
_SEPARATED = re.compile(r"-?\$?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?")


def worked(gold: str) -> tuple[str, str | None]:
    """(bare answer, the worked solution it ended; None where the gold was bare already).

    ``"... so 9 * 2 = 18\\n#### 1,234" -> "1234"``; the closing line may also be ``A: 1,234``.
    """
    # Its last line first: looked for in the whole text, a closing line takes a time that grows with its square.
    _, several, line = gold.rstrip().rpartition("\n")
    match = _HASHES.fullmatch(line) or (_A_LINE.fullmatch(line) if several else None)
    if match is None:
        return gold, None
    answer = match[1].strip()
    return (answer.replace(",", "") if _SEPARATED.fullmatch(answer) else answer), gold


_INTEGER = re.compile(r"(-?)0*(\d+)(?:\.0*)?")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def normal_gold(gold: str, kind: Gold) -> str | None:
    """``gold`` as its benchmark writes it, None where it is no such thing.

    ``integer`` (AIME): no leading zeros and no empty fraction, ``"012" -> "12"``, ``"142.0" -> "142"``. ``number``
    (GSM8K, after `worked` took the separators): as it is, if it is one. ``text``: as it is, always.
    """
    if kind == "text":
        return gold
    if kind == "number":
        return gold if _NUMBER.fullmatch(gold) else None
    match = _INTEGER.fullmatch(gold.strip())
    return match[1] + match[2] if match else None


def unasked(text: str, template: str) -> str:
    """The bare question in ``text`` where that is ``template`` filled in; else ``text``."""
    before, after = template.split("{question}")
    if len(text) > len(before) + len(after) and text.startswith(before) and text.endswith(after):
        return text[len(before) : len(text) - len(after)]
    return text
