"""Rows of a file or folder of shards that somebody else made, and the one-line errors about them. A leaf."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import reprlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from tasks.core.digests import file_digest
from tasks.core.errors import InputError
from tasks.core.small_files import TwiceError, parse
from tasks.core.visible import visible

if TYPE_CHECKING:
    import pyarrow as pa

LONGEST_LINE = 2**26
"""Bytes of a line: 64 completions of 32,000 tokens with their log-probabilities fit."""
MOST_UNPACKED, MOST_TIMES = 2**30, 100
"""Bytes in memory of the values of a packed file (parquet, gzip, zstd) that is small; of a large one, times its size
on disk."""

KINDS = {".jsonl": "JSONL", ".ndjson": "JSONL", ".json": "JSON", ".parquet": "parquet"}
PACKED = {".gz": "gzip", ".zst": "zstd"}
"""Of JSON lines and JSON: what is around them, by the last suffix."""
_ASIDE = ("dataset_info.json", "dataset_infos.json")
_WORDS_ABOUT = (".md", ".txt", ".yaml", ".yml", "")
"""Of a folder of shards: files and suffixes that hold no rows."""
_OF = re.compile(r"(.*?)-?(\d+)-of-(\d+)")
_SPLIT = re.compile(r"(train|test|validation|valid|val|dev)(?![a-z])", re.IGNORECASE)


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
    """The rows of a file, or of a folder's `shards` one after the other, lazily; columns of a parquet file that are in
    ``skip`` are not read.

    JSON lines, a JSON array of objects, or parquet; JSON may be packed by gzip or zstd. Raises `InputError`, one line
    with file, line (or row) and way out, for a missing or unreadable file, another suffix, invalid UTF-8 and invalid
    JSON, a key that is there twice, a line longer than `LONGEST_LINE`, a file that unpacks beyond all measure, and
    shards of several kinds, splits or sets of columns. An empty file has no rows.
    """
    try:
        files = shards(path)
        yield from _file(files[0], skip) if len(files) == 1 else _alike(files, skip)
    except OSError as error:
        raise InputError(f"{name_of(path)}: cannot be read ({error.strerror or 'I/O error'}); check it") from error


def shards(path: Path) -> list[Path]:
    """The files whose rows `read_rows` gives: ``path``, or what lies in that folder, by name and number (2 before 10).

    Raises `InputError` for a missing file, another suffix, and a folder that holds no shards, shards of several kinds
    or splits, fewer than their names say (``00000-of-00004``), or other files of data.
    """
    if os.path.isfile(path):  # unlike Path's, false for a name that no file can have
        if kind_of(path) is None:
            raise InputError(
                f"{name_of(path)}: expected a .jsonl or .parquet file, or one of .json, .jsonl.gz, .jsonl.zst; convert "
                "it, or rename it if it is one"
            )
        return [path]
    if not os.path.isdir(path):
        if kind_of(path) is None:
            raise InputError(
                f"{name_of(path)}: expected a .jsonl or .parquet file, and there is none of this name; check the path"
            )
        raise InputError(f"{name_of(path)}: no such file; check the path (it is relative to the current directory)")
    return _shards(path)


def _shards(folder: Path) -> list[Path]:
    inside = sorted((file for file in folder.iterdir() if file.name[0] not in "._"), key=_natural)
    found = [file for file in inside if file.is_file() and not _aside(file)]
    below = [file for file in inside if file.is_dir() and any(kind_of(one) for one in file.iterdir() if one.is_file())]
    if below:
        raise InputError(f"{name_of(folder)}: has shards in its folder {below[0].name!r}; give one folder of shards")
    if not found:
        raise InputError(
            f"{name_of(folder)}: expected a .jsonl or .parquet file or a folder of them, got a folder with none; "
            "check the path"
        )
    first = found[0]
    for file in found:
        if kind_of(file) is None or kind_of(file) != kind_of(first):
            raise InputError(
                f"{name_of(folder)}: expected shards of one kind, JSONL or parquet, got {first.name!r} and "
                f"{file.name!r}; leave others out"
            )
        ours, theirs = (_SPLIT.match(one.name) for one in (first, file))
        if (ours and ours[1].lower()) != (theirs and theirs[1].lower()):
            raise InputError(
                f"{name_of(folder)}: expected one split, got {first.name!r} and {file.name!r}; leave the others out"
            )
    numbered = [match for file in found if (match := _OF.match(file.name))]
    told = {(match[1], int(match[3])) for match in numbered}
    if numbered and (len(numbered) < len(found) or len(told) > 1):
        raise InputError(
            f"{name_of(folder)}: expected the shards of one set, got {first.name!r} and {found[-1].name!r}; leave the "
            "others out"
        )
    if numbered and (missing := {*range(next(iter(told))[1])} - {int(match[2]) for match in numbered}):
        raise InputError(
            f"{name_of(folder)}: {len(found)} of {next(iter(told))[1]} shards are there, number {min(missing)} is "
            "missing; get it whole"
        )
    return found


def kind_of(path: Path) -> str | None:
    """JSONL, JSON or parquet, by the name's suffixes; None for anything else."""
    name = path.name.lower()
    bare = next((name.removesuffix(end) for end in PACKED if name.endswith(end)), name)
    kind = KINDS.get(os.path.splitext(bare)[1])
    return None if kind == "parquet" and bare != name else kind


def rows_digest(path: Path) -> str:
    """sha256 of a file's bytes; of a folder's, of the digests of all its shards in their order. `InputError`: `shards`.

    Raises `OSError` for a file that cannot be read.
    """
    files = shards(path)
    if files == [path]:
        return file_digest(path)
    return hashlib.sha256("".join(map(file_digest, files)).encode()).hexdigest()


def rows_bytes(path: Path) -> int:
    """Bytes on disk of a file or of a folder's shards; 0 where there is neither."""
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _aside(file: Path) -> bool:
    name = file.name.lower()
    return name in _ASIDE or (kind_of(file) is None and os.path.splitext(name)[1] in _WORDS_ABOUT)


def _natural(path: Path) -> list[tuple[int, str]]:
    """``shard-2`` before ``shard-10``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _alike(files: list[Path], skip: Collection[str]) -> Iterator[Row]:
    """The rows of shards; refused where one has a column that no row of another has."""
    known: tuple[Path, set[str]] | None = None
    for file in files:
        columns: set[str] = set()
        for row in _file(file, skip):
            columns.update(row.values)
            yield row
        if not columns:  # no rows
            continue
        first, expected = known = known or (file, columns)
        if odd := sorted(columns ^ expected):
            ours, theirs = (first, file) if odd[0] in expected else (file, first)
            raise InputError(
                f"{name_of(ours)}: has a column {show(odd[0])} that {theirs.name!r} beside it has not; expected shards "
                "of one schema (null where a value is unknown)"
            )


def _file(path: Path, skip: Collection[str]) -> Iterator[Row]:
    if kind_of(path) == "parquet":
        yield from _parquet(path, skip)
        return
    with _unpacked(path) as file:
        yield from _array(path, file) if _opens_array(path, file) else _jsonl(path, file)


@contextmanager
def _unpacked(path: Path) -> Iterator[io.BufferedReader]:
    """The file's bytes, out of gzip or zstd where its name says so (by pyarrow, which has both)."""
    codec = next((codec for end, codec in PACKED.items() if path.name.lower().endswith(end)), None)
    with path.open("rb") as file:
        if codec is None:
            yield file
            return
        import pyarrow as pa

        try:
            with pa.CompressedInputStream(file, codec) as stream:
                yield io.BufferedReader(stream)
        except (OSError, pa.ArrowException) as error:
            raise InputError(
                f"{name_of(path)}: expected {codec}, got what cannot be unpacked ({visible(str(error), 80)}); write it "
                "again, or give it unpacked"
            ) from error


def _opens_array(path: Path, file: io.BufferedReader) -> bool:
    """Whether a file called .json is one array; else it is read as JSON lines, which many call so."""
    return kind_of(path) == "JSON" and file.peek(4096)[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"["


def _array(path: Path, file: BinaryIO) -> Iterator[Row]:
    raw = file.read(MOST_UNPACKED + 1)
    if len(raw) > MOST_UNPACKED:
        raise InputError(f"{name_of(path)}: an array of more than {MOST_UNPACKED >> 30} GiB; give it as JSONL")
    rows = _parsed(raw, name_of(path), "a JSON array", "utf-8-sig")
    for number, values in enumerate(rows, start=1):
        where = f"{name_of(path)}, row {number}"
        if not isinstance(values, dict):
            raise InputError(f"{where}: expected a JSON object {{...}}, got {show(values)}; correct it")
        yield Row(where, values)


def _jsonl(path: Path, file: BinaryIO) -> Iterator[Row]:
    unpacked, most = 0, max(MOST_UNPACKED, MOST_TIMES * path.stat().st_size)
    for number, raw in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), start=1):
        where = f"{name_of(path)}, line {number}"
        if len(raw) > LONGEST_LINE:
            raise InputError(
                f"{where}: expected one JSON object a line, got more than {LONGEST_LINE >> 20} MiB without a line "
                "break; write one row a line"
            )
        unpacked += len(raw)
        _check_size(path, unpacked, most)
        values = _parsed(raw, where, "one JSON object a line", "utf-8-sig" if number == 1 else "utf-8")
        if values is None:
            continue
        if not isinstance(values, dict):
            raise InputError(f"{where}: expected one JSON object {{...}} a line, got {show(values)}; correct the line")
        yield Row(where, values)


def _parsed(raw: bytes, where: str, expected: str, encoding: str) -> Any:
    """The JSON in ``raw``; None for nothing but white space. Raises `InputError`."""
    try:
        text = raw.decode(encoding).rstrip()
        if not text:
            return None
        values = parse(text)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where}: expected UTF-8, got byte {error.object[error.start]:#04x} at {error.start}; "
            "convert the file to UTF-8"
        ) from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where}: expected {expected}, got invalid JSON at column {error.colno} ({error.msg}); correct the line"
        ) from error
    except TwiceError as error:
        raise InputError(f"{where}: expected each key once, but {error}; leave one of the two out") from error
    except ValueError as error:  # an integer of > 4,300 digits; brackets nested too deep
        raise InputError(
            f"{where}: expected JSON with numbers and nesting of ordinary size; correct the line"
        ) from error
    if values is None:
        raise InputError(f"{where}: expected {expected}, got nothing; correct the line")
    return values


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


def number_text(value: int | float) -> str:
    """A number as a person writes it: ``1e-05 -> "0.00001"``, ``1e22 -> "1" and 22 zeros``, ``120.0 -> "120.0"``.

    Of a float the shortest digits that are it, never with an exponent. Raises ValueError for one that is not finite.
    """
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"not a finite number: {value}")
        return format(Decimal(repr(value)), "f")
    return str(value)


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
