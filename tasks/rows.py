"""Rows of a JSONL or parquet file that somebody else made, and the one-line errors about them. A leaf."""

from __future__ import annotations

import hashlib
import json
import reprlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from tasks.contracts import InputError


@dataclass(frozen=True)
class Row:
    """One row of a file and the words that name it in an error, such as ``mine.jsonl, line 3``."""

    where: str
    values: Mapping[str, Any]

    def refuse(self, field: str, expected: str, way_out: str) -> InputError:
        """The one-line error for a field of this row."""
        return InputError(f"{self.where}, field `{field}`: expected {expected}; {way_out}")

    def first(self, names: tuple[str, ...]) -> tuple[str, Any]:
        """The first of ``names`` that has a value, and the value; (first name, None) where none has."""
        present = (name for name in names if self.values.get(name) is not None)
        name = next(present, names[0])
        return name, self.values.get(name)

    def text(self, field: str, text: str) -> str:
        """``text``, refused where it cannot be written as UTF-8 (JSON escapes can spell half a surrogate pair)."""
        try:
            text.encode()
        except UnicodeEncodeError:
            raise self.refuse(field, "valid Unicode, got half a surrogate pair", "correct the escape") from None
        return text


def read_rows(path: Path, *, skip: Collection[str] = ()) -> Iterator[Row]:
    """The file's rows, lazily; columns of a parquet file that are in ``skip`` are not read.

    Raises `InputError`, one line with file, line (or row of a parquet file) and way out, for a missing or unreadable
    file, another suffix than ``.jsonl``, ``.ndjson`` or ``.parquet``, invalid UTF-8 and invalid JSON. An empty file
    has no rows.
    """
    suffix = path.suffix.lower()
    if suffix not in (".jsonl", ".ndjson", ".parquet"):
        raise InputError(f"{name_of(path)}: expected a .jsonl or .parquet file; convert it, or rename it if it is one")
    try:
        if "\0" in str(path) or not path.is_file():
            raise InputError(f"{name_of(path)}: no such file; check the path (it is relative to the current directory)")
        yield from _parquet(path, skip) if suffix == ".parquet" else _jsonl(path)
    except OSError as error:
        raise InputError(f"{name_of(path)}: cannot be read ({error.strerror or 'I/O error'}); check it") from error


def _jsonl(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            where = f"{name_of(path)}, line {number}"
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
                    f"{where}: expected one JSON object {{...}} a line, got {show(values)}; correct the line"
                )
            if text:
                yield Row(where, values)


def _parquet(path: Path, skip: Collection[str]) -> Iterator[Row]:
    try:
        rows = pl.read_parquet(path).drop(skip, strict=False).rows(named=True)
    except (Exception, pl.exceptions.PanicException) as error:  # the reader panics on some damaged files
        note = next(iter(str(error).splitlines()), type(error).__name__)[:120]
        raise InputError(
            f"{name_of(path)}: expected a parquet file, got one that cannot be read ({note}); write it again"
        ) from error
    for number, values in enumerate(rows, start=1):
        yield Row(f"{name_of(path)}, row {number}", values)


def question_id(question: str) -> str:
    """The id of a problem that came without one: the same question has the same id in every file."""
    return "p-" + hashlib.sha256(question.encode()).hexdigest()[:16]


def name_of(path: Path) -> str:
    """``path`` on one line, for an error message."""
    return str(path).replace("\n", " ").replace("\r", " ")


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


def show(value: object) -> str:
    """``value`` on one line, cut short, for an error message."""
    return "nothing" if value is None else _SHORT.repr(value).replace("\n", " ")
