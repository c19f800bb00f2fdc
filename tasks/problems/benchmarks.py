"""The benchmarks that a study can be judged by: one entry each, what is asked, and where the problems are.

A benchmark's template is part of its definition: `open_benchmark` gives what is asked, the instruction sentence
included, in the column ``question``, so that whatever takes a PROBLEMS frame asks every model the same. Whatever
renders the prompt (a chat template, `model.prompt_template`) goes around that. Ids are of the bare question.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import polars as pl

from tasks.core.errors import InputError
from tasks.core.rows import Row, name_of, read_rows
from tasks.core.small_files import expanded
from tasks.problems.files import QUESTION_ALONE, Gold, Layout, Problems, collect, read_problems
from tasks.problems.hub import PREFIX, hub_rows, parse_hub
from tasks.problems.overlap import INSTRUCTIONS, bare_key

BOXED = f"{{question}}\n{INSTRUCTIONS[0]}"
"""The template of every benchmark here; the sentence is the one that Qwen's and DeepSeek's evaluations ask with."""


@dataclass(frozen=True)
class Benchmark:
    """A named set of problems."""

    name: str
    title: str
    n: int
    """Problems in it; a copy with another number is refused (a set of prompts may grow)."""
    hub: str
    """``hub:org/name[:config][:split]``."""
    file: str
    """Under ``$COLINEAR_DATA``."""
    licence: str
    source: str
    hub_fields: Mapping[str, str] = field(default_factory=dict)
    file_fields: Mapping[str, str] = field(default_factory=dict)
    id_prefix: str = ""
    """Which rows of the file are its own."""
    template: str = BOXED
    gold: Gold = "text"
    role: Literal["evaluation", "prompts"] = "evaluation"
    """``prompts``: to sample rollouts for; not to be judged by."""
    parts: tuple[str, ...] = ()
    """Benchmarks that it is the sum of; then it has no data of its own."""


_NO_ID = {"id": ""}  # a column of no data set: the id is derived from the question, the same from file and Hub


def _gsm8k(name: str, title: str, n: int, split: str, role: Literal["evaluation", "prompts"]) -> Benchmark:
    return Benchmark(
        name, title, n, f"hub:openai/gsm8k:main:{split}", f"gsm8k/{split}.jsonl",
        "MIT", "Cobbe et al. 2021, openai/grade-school-math", gold="number", role=role,
    )  # fmt: skip


def _aime(year: int, hub: str, licence: str) -> Benchmark:
    return Benchmark(
        f"aime{year}", f"AIME {year}", 30, hub, "aime/aime_2024_2026.jsonl", licence,
        "American Invitational Mathematics Examination I and II; statements (c) MAA",
        hub_fields=_NO_ID, id_prefix=f"{year}-", gold="integer",
    )  # fmt: skip


BENCHMARKS: tuple[Benchmark, ...] = (
    _gsm8k("gsm8k", "GSM8K (test)", 1319, "test", "evaluation"),
    _gsm8k("gsm8k-train", "GSM8K (train)", 7473, "train", "prompts"),
    _aime(2024, "hub:HuggingFaceH4/aime_2024:train", "not stated"),
    _aime(2025, "hub:MathArena/aime_2025:train", "CC BY-NC-SA 4.0"),
    _aime(2026, "hub:MathArena/aime_2026:train", "CC BY-NC-SA 4.0"),
    Benchmark(
        "aime", "AIME 2024-2026", 90, "", "aime/aime_2024_2026.jsonl", "as its parts",
        "American Invitational Mathematics Examination I and II; statements (c) MAA",
        gold="integer", parts=("aime2024", "aime2025", "aime2026"),
    ),
    Benchmark(
        "math500", "MATH-500", 500, "hub:HuggingFaceH4/MATH-500:test", "math500/math500.jsonl",
        "MIT", "Hendrycks et al. 2021, the 500 of Lightman et al. 2023",
        hub_fields=_NO_ID, file_fields=_NO_ID | {"question": "prompt"},
    ),
    Benchmark(
        "deepscaler", "DeepScaleR", 9097, "hub:agentica-org/DeepScaleR-Preview-Dataset:train", "deepscaler/train.jsonl",
        "MIT", "Luo et al. 2025; the file is a part of it, 9,100 of about 40,000", role="prompts",
        hub_fields=_NO_ID, file_fields=_NO_ID,
    ),
)  # fmt: skip
"""Every benchmark that has a name."""

_BY_NAME = {benchmark.name: benchmark for benchmark in BENCHMARKS}


@dataclass(frozen=True)
class Loaded:
    """A benchmark's problems, whole, and where they came from."""

    name: str
    template: str
    source: str
    problems: Problems

    def choose(self, n: int | None = None) -> pl.DataFrame:
        """All in their order, or ``n`` by a hash of the bare question: more contain fewer, whatever the order."""
        frame = self.problems.frame
        if n is None or n >= frame.height:
            return frame
        return keyed(frame).sort("key").head(n).drop("key")


def keyed(problems: pl.DataFrame) -> pl.DataFrame:
    """PROBLEMS with a column ``key``, the hash of the bare question by which problems are chosen and told apart."""
    return problems.with_columns(
        pl.Series("key", [bare_key(question) for question in problems["question"]], dtype=pl.Int64)
    )


def open_benchmark(name: str, fields: Mapping[str, str] | None = None) -> Loaded:
    """A benchmark, whole: a name of `BENCHMARKS`, a file, or ``hub:org/name[:config][:split]``; split = ``name``.

    A named one is read from ``$COLINEAR_DATA`` where its file is (no network), else from the Hub. ``fields``: the
    columns of a file or Hub data set of one's own. Raises `InputError`.
    """
    if name in _BY_NAME:
        return _named(_BY_NAME[name])
    return _given(name, Layout(split=benchmark_name(name), fields=fields or {}))


def open_prompts(name: str, fields: Mapping[str, str] | None = None) -> Loaded:
    """Problems to sample rollouts for: a named set of prompts, a file or a Hub data set; whole.

    Rows without a gold answer and repeated questions are left out and counted. Raises `InputError`, also for a name
    that is there to be judged by.
    """
    setting = "rollouts.problems"
    if name in _BY_NAME:
        if _BY_NAME[name].role != "prompts":
            raise InputError(f"{setting}: {name!r} is there to be judged by; train on one of {_names('prompts')}")
        return _named(_BY_NAME[name])
    split = benchmark_name(name, setting)
    return _given(name, Layout(split=split, fields=fields or {}, lenient=True, setting="rollouts.fields"))


def open_heldout(name: str, fields: Mapping[str, str] | None = None) -> Loaded:
    """What ``evaluation.problems`` names: a set of prompts (its problems are held out then), a file, a Hub data set.

    Raises `InputError`, also for a benchmark, which has a place of its own.
    """
    setting = "evaluation.problems"
    if name in _BY_NAME:
        if _BY_NAME[name].role != "prompts":
            raise InputError(f"{setting}: {name!r} is a benchmark; set evaluation.benchmarks={name}")
        return _named(_BY_NAME[name])
    if name.startswith(PREFIX):
        return _given(name, Layout(fields=fields or {}))
    path = expanded(name)
    return Loaded("heldout", QUESTION_ALONE, path.name, Problems(read_problems(path, fields)))


def _names(role: str) -> str:
    return ", ".join(benchmark.name for benchmark in BENCHMARKS if benchmark.role == role)


def _given(name: str, layout: Layout) -> Loaded:
    """The problems of a file or a Hub data set of one's own."""
    split = layout.split
    if name.startswith(PREFIX):
        return Loaded(split, QUESTION_ALONE, name, collect(hub_rows(*parse_hub(name)), name, layout))
    path = expanded(name)
    return Loaded(split, QUESTION_ALONE, path.name, collect(read_rows(path), name_of(path), layout))


def benchmark_name(name: str, setting: str = "evaluation.benchmarks") -> str:
    """What the tables call it: a registered name, a file's own name, or the Hub's. Raises `InputError`: unknown."""
    if name in _BY_NAME:
        return name
    if name.startswith(PREFIX):
        parse_hub(name)
        return name.removeprefix(PREFIX)
    if Path(name).suffix.lower() in (".jsonl", ".ndjson", ".parquet"):
        return Path(name).name
    near = difflib.get_close_matches(name, _BY_NAME, n=1)
    known = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(_BY_NAME)}"
    raise InputError(f"{setting}: no benchmark {name!r}; {known} (or a .jsonl or .parquet file, or hub:org/name)")


def check_names(names: Sequence[str]) -> None:
    """Refuse, without reading anything, an unknown name, one listed twice, and a set of prompts. `InputError`."""
    tables = [benchmark_name(name) for name in names]
    for place, (name, table) in enumerate(zip(names, tables, strict=True)):
        if table in tables[:place]:
            raise InputError(f"evaluation.benchmarks: {table!r} is listed twice; rename one file or leave it out")
        if name in _BY_NAME and _BY_NAME[name].role == "prompts":
            judges = _names("evaluation")
            raise InputError(
                f"evaluation.benchmarks: {name!r} is a set of training prompts; evaluate on one of {judges}"
            )


def frame_digest(frame: pl.DataFrame) -> str:
    """sha256 of the rows in their order: what of a benchmark decides a stage's output, wherever it came from."""
    return hashlib.sha256(json.dumps(frame.rows(), separators=(",", ":")).encode()).hexdigest()


def _named(benchmark: Benchmark) -> Loaded:
    if benchmark.parts:
        parts = [_named(_BY_NAME[part]) for part in benchmark.parts]
        frame = pl.concat([part.problems.frame for part in parts]).with_columns(split=pl.lit(benchmark.name))
        return Loaded(
            benchmark.name,
            benchmark.template,
            " + ".join(dict.fromkeys(part.source for part in parts)),
            Problems(frame),
        )
    rows, fields, source = _rows(benchmark)
    prefix = benchmark.id_prefix if source == benchmark.file else ""
    layout = Layout(
        split=benchmark.name,
        fields=fields,
        template=benchmark.template,
        gold=benchmark.gold,
        lenient=benchmark.role == "prompts",
        keep=(lambda row: str(row.values.get("id", "")).startswith(prefix)) if prefix else None,
    )
    problems = collect(rows, source, layout)
    if benchmark.role == "evaluation" and problems.frame.height != benchmark.n:
        raise InputError(
            f"{source}: {benchmark.name} has {benchmark.n} problems, but {problems.frame.height} are there; get it "
            "whole, or give it as a file of your own"
        )
    return Loaded(benchmark.name, benchmark.template, source, problems)


def _rows(benchmark: Benchmark) -> tuple[Iterator[Row], Mapping[str, str], str]:
    folder = os.environ.get("COLINEAR_DATA")
    if folder and (path := Path(folder).expanduser() / benchmark.file).is_file():
        return read_rows(path), benchmark.file_fields, benchmark.file
    return hub_rows(*parse_hub(benchmark.hub)), benchmark.hub_fields, benchmark.hub
