"""Rows of a JSONL or parquet file that somebody else made, and the one-line errors about them. A leaf."""

from __future__ import annotations

import hashlib
import json
import os
import reprlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.contracts import InputError
from tasks.small_files import TwiceError, parse
from tasks.visible import visible

if TYPE_CHECKING:
    import pyarrow as pa

LONGEST_LINE = 2**26
"""Bytes of a line: 64 completions of 32,000 tokens with their log-probabilities fit."""
MOST_UNPACKED, MOST_TIMES = 2**30, 100
"""Bytes in memory of a parquet file's values, of one that is small; of a large one, times its size on disk."""


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
    file, another suffix than ``.jsonl``, ``.ndjson`` or ``.parquet``, invalid UTF-8 and invalid JSON, a key that is
    there twice, a line longer than `LONGEST_LINE`, and a parquet file that unpacks beyond all measure. An empty file
    has no rows.
    """
    suffix = path.suffix.lower()
    if suffix not in (".jsonl", ".ndjson", ".parquet"):
        raise InputError(f"{name_of(path)}: expected a .jsonl or .parquet file; convert it, or rename it if it is one")
    try:
        if not os.path.isfile(path):  # unlike Path's, false for a name that no file can have
            raise InputError(f"{name_of(path)}: no such file; check the path (it is relative to the current directory)")
        yield from _parquet(path, skip) if suffix == ".parquet" else _jsonl(path)
    except OSError as error:
        raise InputError(f"{name_of(path)}: cannot be read ({error.strerror or 'I/O error'}); check it") from error


def _jsonl(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        for number, raw in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), start=1):
            where = f"{name_of(path)}, line {number}"
            if len(raw) > LONGEST_LINE:
                raise InputError(
                    f"{where}: expected one JSON object a line, got more than {LONGEST_LINE >> 20} MiB without a line "
                    "break; write one row a line"
                )
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip()
                values = parse(text) if text else {}
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
            except TwiceError as error:
                raise InputError(f"{where}: expected each key once, but {error}; leave one of the two out") from error
            except ValueError as error:  # an integer of > 4,300 digits; brackets nested too deep
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
    """By pyarrow: polars' reader panics on some damaged files, and its panics print themselves."""
    number = 0
    for rows in _batches(path, skip):
        for values in rows:
            number += 1
            yield Row(f"{name_of(path)}, row {number}", values)


def _batches(path: Path, skip: Collection[str]) -> Iterator[list[dict[str, Any]]]:
    import pyarrow.parquet as pq

    try:
        most = max(MOST_UNPACKED, MOST_TIMES * path.stat().st_size)
        with pq.ParquetFile(path) as file:
            whole = file.metadata
            groups = [whole.row_group(place) for place in range(whole.num_row_groups)]
            chunks = [group.column(place) for group in groups for place in range(group.num_columns)]
            # What its footer says; then, as they come, what a few bytes that stand for many rows become.
            unpacked = sum(max(chunk.total_uncompressed_size, 8 * chunk.num_values) for chunk in chunks)
            _check_size(path, unpacked, most)
            largest = max((chunk.total_uncompressed_size for chunk in chunks), default=0)
            size = min(max(2**26 // max(largest, 1), 4), 1024)  # a value is no longer than its chunk
            columns = [name for name in file.schema_arrow.names if name not in skip]
            unpacked = 0
            for batch in file.iter_batches(size, columns=columns, use_threads=False):
                rows = _as_written(batch).to_pylist()
                unpacked += _weight(rows)
                _check_size(path, unpacked, most)
                yield rows
    except (InputError, GeneratorExit):
        raise
    except Exception as error:  # damage: of pyarrow's classes, Unicode's, memory that nobody has
        note = next(iter(str(error).splitlines()), type(error).__name__)[:120]
        raise InputError(
            f"{name_of(path)}: expected a parquet file, got one that cannot be read ({note}); write it again"
        ) from error


def _as_written(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Single-precision columns as the shortest decimals that they stand for: 0.1, not 0.10000000149011612."""
    import pyarrow as pa

    for place, kind in enumerate(batch.schema.types):
        if pa.types.is_float32(kind):
            column = batch.column(place).cast(pa.string()).cast(pa.float64())
            batch = batch.set_column(place, batch.schema.field(place).name, column)
    return batch


def _weight(value: Any) -> int:
    """About how many bytes a value takes in memory."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_weight, value.values()))
    if isinstance(value, list):
        numbers = bool(value) and isinstance(value[0], int | float)
        return 8 * len(value) if numbers else sum(map(_weight, value))
    return 8


def _check_size(path: Path, unpacked: int, most: int) -> None:
    if unpacked > most:
        raise InputError(
            f"{name_of(path)}: its values take more than {most / 2**30:.0f} GiB, over {MOST_TIMES} times the file; "
            "give it as JSONL, or in parts"
        )


def number_text(value: float) -> str:
    """A number as people write it: ``0.00001``, not ``1e-05``; integers and other decimals as they are."""
    return format(Decimal(repr(value)), "f")


def question_id(question: str) -> str:
    """The id of a problem that came without one: the same question has the same id in every file."""
    return "p-" + hashlib.sha256(question.encode()).hexdigest()[:16]


def name_of(path: Path) -> str:
    """``path`` on one line, for an error message."""
    return visible(str(path))


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_SHORT.maxlevel = 3


def show(value: object) -> str:
    """``value`` on one line, cut short, for an error message."""
    return "nothing" if value is None else visible(_SHORT.repr(value), 200)
