"""Item-level logs that other evaluation tools wrote: which problem was answered right, whichever tool asked it.

Read are lm-evaluation-harness' ``samples_*.jsonl``, inspect's ``.eval`` and its JSON, lighteval's details (parquet),
Qwen2.5-Math's jsonl, colinear's own ``items.parquet``, and any JSON lines or parquet whose columns the user names.
"""

from __future__ import annotations

import ast
import hashlib
import json
import math
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl
import pyarrow as pa

from tasks.core.errors import InputError
from tasks.core.rows import Row, name_of, read_rows, show
from tasks.core.small_files import parse

ANSWERS = {"problem_id": pl.String(), "sample": pl.Int64(), "correct": pl.Boolean()}
"""One row an answer. A problem with several samples was asked several times."""

ZSTD = 93
"""The number of zstd among a zip's methods."""

LARGEST_SAMPLE = 2**28
"""Bytes of one of inspect's samples, unpacked."""

MOST_NAMED = 3
"""Ids that a note names."""

_METRICS = (
    "exact_match", "acc", "extractive_match", "em", "pass@1", "pass@k", "correct", "is_correct", "score", "reward",
)  # fmt: skip
"""Metrics of right and wrong, the likeliest first; others by ``--metric``."""

_HARNESS_OWN = {
    "doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics", "doc_hash", "prompt_hash",
    "target_hash",
}  # fmt: skip
"""Fields of a line of lm-evaluation-harness that are no metric."""


@dataclass(frozen=True)
class Columns:
    """What the user says of a log that no known tool wrote, and which of several metrics or filters is meant."""

    id: str | None = None
    correct: str | None = None
    answer: str | None = None
    reference: str | None = None
    metric: str | None = None
    filter: str | None = None

    @property
    def given(self) -> bool:
        """Whether columns are named, so that no tool's layout is looked for."""
        return any((self.id, self.correct, self.answer, self.reference))


@dataclass(frozen=True, eq=False)
class Log:
    """One model's answers, in the schema ANSWERS; ``notes``: what was left out or chosen, a sentence each.

    ``measure``: the metric, filter or column that was read, empty where the tool has one only. ``asked``: of a problem
    a digest of the words that the log has of it, whatever their order: the same id may be another problem elsewhere.
    """

    model: str
    tool: str
    answers: pl.DataFrame
    notes: tuple[str, ...] = ()
    measure: str = ""
    asked: Mapping[str, str] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """Most answers to one problem."""
        return int(self.answers.group_by("problem_id").len()["len"].max() or 0)  # type: ignore[arg-type]


@dataclass
class _Found:
    """Answers as they are read: (problem, place among its samples or None, right)."""

    tool: str
    rows: list[tuple[str, int | None, bool]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    measure: str = ""
    asked: dict[str, str] = field(default_factory=dict)

    def add(self, where: str, key: str, sample: int | None, right: bool, problem: Any = None) -> None:
        """One answer; `InputError` where ``problem``, what the log has of it, is another than an earlier line's."""
        self.rows.append((key, sample, right))
        if problem is not None and self.asked.setdefault(key, words := _words(problem)) != words:
            raise InputError(f"{where}: the id {show(key)} is two problems: give a file for each benchmark")


def read_logs(argument: str, columns: Columns = Columns()) -> list[Log]:
    """The models in ``PATH`` or ``NAME=PATH``: one, or of colinear's own ``items.parquet`` every run.

    A study's folder stands for its ``items.parquet``. Raises `InputError`, one line, for a file of no known layout, a
    metric that is neither right nor wrong, an id that is two problems, and a log without an answer.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "mine.jsonl"
    >>> _ = file.write_text('{"q": 1, "ok": true}\\n{"q": 2, "ok": false}\\n')
    >>> (log,) = read_logs(str(file), Columns(id="q", correct="ok"))
    >>> log.model, log.answers["correct"].to_list()
    ('mine', [True, False])
    """
    name, _, rest = argument.partition("=")
    given, path = (name, Path(rest)) if rest and not Path(argument).exists() else (None, Path(argument))
    if path.is_dir() and (path / "items.parquet").is_file():
        path = path / "items.parquet"
    if not path.exists():
        raise InputError(f"{name_of(path)}: no such log; give a file that an evaluation wrote, or NAME=FILE")
    if path.suffix == ".eval" or path.suffix == ".json":
        found = _inspect(path, columns)
        if found is not None:
            return [_log(given or _label(path), path, found)]
    if path.suffix == ".parquet" and not columns.given and {"run", "sample", "correct"} <= _names(path):
        return _own(path, given)
    return [_log(given or _label(path), path, _of_rows(path, columns))]


def _of_rows(path: Path, columns: Columns) -> _Found:
    rows = read_rows(path)
    first = next(rows, None)
    if first is None:
        raise InputError(f"{name_of(path)}: it has no rows; give a log with answers")
    keys = first.values.keys()

    def every() -> Iterator[Row]:
        yield first
        yield from rows

    if columns.given:
        return _named(every(), columns, keys)
    if "doc_id" in keys and ("filtered_resps" in keys or "resps" in keys):
        return _harness(every(), columns)
    if "score" in keys and isinstance(first.values["score"], list):
        return _qwen(every())
    if ({"doc", "example"} & keys) and ({"metric", "metrics"} & keys):
        return _lighteval(every(), columns)
    raise InputError(
        f"{name_of(path)}: not a log of lm-evaluation-harness, inspect, lighteval or Qwen2.5-Math; name its columns: "
        f"--id COLUMN --correct COLUMN (it has {', '.join(map(show, list(keys)[:8]))})"
    )


def _harness(rows: Iterator[Row], columns: Columns) -> _Found:
    """A line for each document and filter: gsm8k writes every document twice, once a filter."""
    found, filters = _Found("lm-evaluation-harness"), Counter[str]()
    metric = wanted = None
    for row in rows:
        of_filter = str(row.values.get("filter", "none"))
        filters[of_filter] += 1
        wanted = wanted or columns.filter or of_filter
        if of_filter != wanted:
            continue
        metric = metric or _metric(row, row.values, columns, _HARNESS_OWN)
        right = _right(row, metric, row.values.get(metric))
        found.add(row.where, str(row.values["doc_id"]), None, right, row.values.get("doc"))
    if not found.rows:
        raise InputError(f"--filter {show(wanted)}: the log has {', '.join(map(show, filters))}")
    if len(filters) > 1 and columns.filter is None:
        others = ", ".join(name for name in filters if name != wanted)
        found.notes.append(f"read by the filter {wanted}, the file's first; --filter takes another ({others})")
    found.measure = f"{metric}, filter {wanted}" if len(filters) > 1 else str(metric)
    return found


def _lighteval(rows: Iterator[Row], columns: Columns) -> _Found:
    """``doc`` and ``metric`` side by side; versions up to 0.8 wrote ``example`` and ``metrics``, with no id, and tables
    in them as Python prints them where they did not fit the file."""
    found, metric = _Found("lighteval"), None
    for place, row in enumerate(rows):
        values, doc = (_table(row.values.get(new) or row.values.get(old)) for new, old in _LIGHTEVAL)
        if not isinstance(values, Mapping):
            raise row.refuse("metric", "the metrics of one answer", "give lighteval's details file")
        metric = metric or _metric(row, values, columns, set())
        own = doc.get("id") if isinstance(doc, Mapping) else None
        key, problem = str(place if own in (None, "") else own), doc.get("query") if isinstance(doc, Mapping) else doc
        found.add(row.where, key, None, _right(row, metric, values.get(metric)), problem)
    found.measure = str(metric)
    return found


_LIGHTEVAL = (("metric", "metrics"), ("doc", "example"))


def _table(value: Any) -> Any:
    """A table that was written as text, by JSON or as Python prints it; any other value as it is."""
    for read in (json.loads, ast.literal_eval) if isinstance(value, str) and value.lstrip()[:1] == "{" else ():
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            return read(value)
    return value


def _qwen(rows: Iterator[Row]) -> _Found:
    found = _Found("Qwen2.5-Math")
    for place, row in enumerate(rows):
        scores = row.values["score"]
        if not isinstance(scores, list) or not scores:
            raise row.refuse("score", "a list of true and false", "score the answers first")
        _, own = row.first(("idx", "id"))
        key = str(place if own is None else own)
        for i, score in enumerate(scores):
            found.add(row.where, key, i, _right(row, "score", score), row.values.get("question"))
    return found


def _named(rows: Iterator[Row], columns: Columns, keys: Any) -> _Found:
    """A file whose columns the user names; answers without a verdict are graded."""
    if columns.id is None or (columns.correct is None) == (columns.answer is None or columns.reference is None):
        raise InputError("--id needs --correct beside it, or --answer and --reference, by which answers are graded")
    asked = [columns.id, *filter(None, (columns.correct, columns.answer, columns.reference))]
    if missing := [name for name in asked if name not in keys]:
        raise InputError(f"the log has no column {show(missing[0])}; it has {', '.join(map(show, list(keys)[:8]))}")
    found = _Found("named columns")
    kept = [(row, str(row.values.get(columns.id))) for row in rows]
    if columns.correct is not None:
        name = found.measure = columns.correct
        found.rows = [(key, None, _right(row, name, row.values.get(name))) for row, key in kept]
        return found
    from tasks.grading.grade import grade_many

    answer, reference = str(columns.answer), str(columns.reference)
    said, gold = ([str(row.values.get(name) or "") for row, _ in kept] for name in (answer, reference))
    grades = grade_many(said, gold)
    found.rows = [(key, None, grade.reward == 1.0) for (_, key), grade in zip(kept, grades, strict=True)]
    found.notes.append("graded by colinear's grader")
    return found


def _inspect(path: Path, columns: Columns) -> _Found | None:
    """inspect's samples, in its zip (``.eval``) or JSON; None for JSON that is no log of its."""
    samples = _zipped(path) if path.suffix == ".eval" else _inside_json(path)
    if samples is None:
        return None
    found, scorer, unscored = _Found("inspect"), None, 0
    for sample in samples:
        scores = sample.get("scores")
        if not scores:
            unscored += 1
            continue
        row = Row(f"{name_of(path)}, sample {show(sample.get('id'))}", sample)
        scorer = scorer or _metric(row, scores, columns, set(), any_one=True)
        score = scores.get(scorer)
        value = score.get("value") if isinstance(score, Mapping) else score
        if isinstance(value, float) and math.isnan(value):  # how a scorer says that it could not judge
            unscored += 1
            continue
        epoch, right = int(sample.get("epoch") or 1) - 1, _right(row, str(scorer), value)
        found.add(row.where, str(sample.get("id")), epoch, right, sample.get("input"))
    if unscored:
        found.notes.append(f"{unscored} samples without a score (an error, or the run ended early) left out")
    found.measure = str(scorer or "")
    return found


def _zipped(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as packed:
            for entry in packed.infolist():
                if entry.filename.startswith("samples/"):
                    yield parse(_entry(packed, entry, file).decode("utf-8"))
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{name_of(path)}: not a readable log of inspect ({error}); copy it again, or write it as JSON"
        ) from error


def _entry(packed: zipfile.ZipFile, entry: zipfile.ZipInfo, file: BinaryIO) -> bytes:
    """One file of a zip, which inspect packs by zstd (method 93): Python's own reader knows it from 3.14 on."""
    if entry.file_size > LARGEST_SAMPLE:
        raise ValueError(f"{entry.filename} unpacks to {entry.file_size} bytes, at most {LARGEST_SAMPLE} are read")
    if entry.compress_type != ZSTD:
        return packed.read(entry)
    file.seek(entry.header_offset + 26)
    name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
    file.seek(name + extra, 1)
    raw = pa.CompressedInputStream(pa.BufferReader(file.read(entry.compress_size)), "zstd").read(LARGEST_SAMPLE + 1)
    if len(raw) != entry.file_size:
        raise ValueError(f"{entry.filename} has not the length that it should have")
    return bytes(raw)


def _inside_json(path: Path) -> Sequence[Mapping[str, Any]] | None:
    try:
        log = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None  # what is wrong with it is said by who reads it as rows
    inside = isinstance(log, Mapping) and "eval" in log and isinstance(log.get("samples"), list)
    return log["samples"] if inside else None


def _own(path: Path, given: str | None) -> list[Log]:
    """Every run of a study; where there are several benchmarks, each problem's id has its benchmark before it."""
    items = pl.read_parquet(path)
    several = items["benchmark"].n_unique() > 1
    key = pl.concat_str("benchmark", pl.lit("/"), "problem_id") if several else pl.col("problem_id")
    drawn = items.filter(pl.col("sample") > 0).height
    notes = (f"{drawn} drawn answers left out: the greedy ones are compared",) if drawn else ()
    items = items.filter(sample=0).select("run", "sample", "correct", "gold", problem_id=key)
    return [
        Log(
            f"{given}/{run}" if given else str(run), "colinear", own.select([*ANSWERS]), notes,
            asked={key: _words(gold) for key, gold in own.select("problem_id", "gold").iter_rows() if gold is not None},
        )
        for (run,), own in items.group_by("run", maintain_order=True)
    ]  # fmt: skip


def _log(model: str, path: Path, found: _Found) -> Log:
    """Answers with their samples numbered, and what is there twice left out and told.

    Lines of one id are samples where the tool numbers them, or where every id has equally many; else duplicates, of
    which the first is kept.
    """
    if not found.rows:
        raise InputError(f"{name_of(path)}: it has no scored answer; give a log with answers")
    notes = list(found.notes)
    times = Counter(key for key, *_ in found.rows)
    numbered = found.rows[0][1] is not None
    sampled = numbered or (len(set(times.values())) == 1)
    kept: dict[tuple[str, int], bool] = {}
    seen, twice, differ = Counter[str](), dict[str, None](), 0
    for key, sample, right in found.rows:
        at = (key, sample if numbered and sample is not None else seen[key] if sampled else 0)
        seen[key] += 1
        if at in kept:
            twice[key] = None
            differ += kept[at] != right
        kept.setdefault(at, right)
    if not numbered and sampled and (most := max(times.values())) > 1:
        notes.append(
            f"every id is there {most} times: read as {most} samples of each problem; if the file was written twice, "
            "or by several filters, give one of them"
        )
    if twice:
        named = ", ".join([*twice][:MOST_NAMED])
        notes.append(
            f"{len(found.rows) - len(kept)} lines more than answers: {len(twice)} ids are there twice ({named}"
            f"{', ...' if len(twice) > MOST_NAMED else ''}), {differ} of them with another verdict; the first counts"
        )
    frame = pl.DataFrame([(*at, right) for at, right in kept.items()], schema=ANSWERS, orient="row")
    return Log(model, found.tool, frame, tuple(notes), found.measure, found.asked)


def _words(problem: Any) -> str:
    """A digest of what a log has of a problem: its words without their order, since choices may be shuffled."""
    text = problem if isinstance(problem, str) else json.dumps(problem, default=str, ensure_ascii=False)
    return hashlib.sha256(" ".join(sorted(set(re.findall(r"\w+", text.lower())))).encode()).hexdigest()[:16]


def _metric(row: Row, values: Mapping[str, Any], columns: Columns, own: set[str], *, any_one: bool = False) -> str:
    """The metric that says right or wrong: the one asked for, the likeliest, or the only one."""
    there = [name for name in values if name not in own]
    if columns.metric is not None:
        if columns.metric not in there:
            raise InputError(f"--metric {show(columns.metric)}: {row.where} has {', '.join(map(show, there[:8]))}")
        return columns.metric
    for name in _METRICS:
        for found in there:
            if found == name or found.startswith((f"{name},", f"{name}:")):
                return found
    if len(there) == 1 or (any_one and there):
        return there[0]
    raise InputError(
        f"{row.where}: which of {', '.join(map(show, there[:8])) or 'no metrics'} says right or wrong? --metric NAME"
    )


_WORDS: Mapping[str, bool] = {
    "c": True, "i": False, "n": False, "true": True, "false": False, "correct": True, "incorrect": False, "1": True,
    "0": False, "1.0": True, "0.0": False,
}  # fmt: skip
"""inspect's C, I and N (no answer), and how others spell it."""


def _right(row: Row, name: str, value: Any) -> bool:
    if isinstance(value, str):
        value = _WORDS.get(value.strip().lower(), value)
    if isinstance(value, (bool, int, float)) and value in (0, 1):
        return bool(value)
    raise row.refuse(
        name, f"right or wrong (true, false, 1, 0, C, I), got {show(value)}",
        "name another with --metric or --correct; partial credit cannot be tested in pairs",
    )  # fmt: skip


def _names(path: Path) -> set[str]:
    try:
        return set(pl.read_parquet_schema(path))
    except (pl.exceptions.PolarsError, OSError):
        return set()


def _label(path: Path) -> str:
    """A model's name from where its log lies: lm-evaluation-harness names the folder, lighteval the one above that of
    the day, others the file."""
    if not path.stem.startswith(("samples_", "details_")):
        return path.stem
    folder = path.parent.parent if re.match(r"\d{4}-\d\d-\d\dT", path.parent.name) else path.parent
    return folder.name or path.stem
