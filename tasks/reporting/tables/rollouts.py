"""The rollouts that every method was given, as rows of strings: counts, lengths, and some of them to read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from tasks.reporting.formats import NOT_MEASURED, number, percent
from tasks.reporting.tables.views import Cell, Table
from tasks.reporting.views.join import StudyTables

MOST_EXAMPLES = 3
"""Problems that are shown, each with up to two of its answers."""

MOST_CHARACTERS = 1200
"""Of one text of an example; the artifact of the stage "grade" has all."""

ODD = {
    "repeated": "Completions equal to an earlier one of their problem",
    "contradictory": "Completions labelled right and wrong for one problem",
    "one_token": "Completions of one token",
    "control_characters": "Completions with control characters",
}
"""What of the rollouts is counted because a reader would not expect it."""

_CONTROL = r"[\p{Cc}&&[^\n\r\t]]"
_VISIBLE = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\r\t"} | {0x7F: 0x2421}
_VISIBLE |= dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
"""Control characters, which a page cannot show, as their pictures: NUL is U+2400."""

_QUANTILES = (("Shortest", 0.0), ("Median", 0.5), ("90 % up to", 0.9), ("Longest", 1.0))

_SHARE_OF = {
    "correct": ("rows",),
    "truncated": ("rows",),
    "unparsed": ("rows",),
    "unparsed_gold": ("rows",),
    "disagreements": ("rows",),
    "dropped": ("rows",),
    "mixed_groups": ("groups", "prompts"),
}

_GRADES = {1.0: "right", 0.0: "wrong"}


def rollout_record(graded: pl.DataFrame) -> dict[str, Any]:
    """What a study's record keeps of its rollouts (GRADED): ``lengths``, ``examples``, ``right_of_group`` and ``odd``,
    as JSON can hold them.

    ``lengths``: rows, mean and quantiles of the completions' lengths in tokens, of all, of the right and of the wrong.
    ``right_of_group``: a count of right answers -> problems that have so many. ``examples``: of the first problems by
    id of which some answers are right and some wrong (of the first ones where there are none such) one of each.
    ``odd``: how many completions are what `ODD` says.
    """
    rows = graded.with_columns(tokens=pl.col("completion_ids").list.len())
    parts = {"all": rows, "right": rows.filter(reward=1.0), "wrong": rows.filter(reward=0.0)}
    right = rows.group_by("problem_id").agg(right=(pl.col("reward") == 1.0).sum())["right"]
    counts = right.value_counts().sort("right").rows()
    return {
        "lengths": {name: _lengths(part["tokens"]) for name, part in parts.items() if part.height},
        "right_of_group": {str(n): problems for n, problems in counts},
        "examples": list(_examples(rows)),
        "odd": {
            "repeated": rows.height - rows.select("problem_id", "completion").n_unique(),
            "contradictory": rows.filter(pl.col("reward").n_unique().over("problem_id", "completion") > 1).height,
            "one_token": rows.filter(tokens=1).height,
            "control_characters": rows.filter(pl.col("completion").str.contains(_CONTROL)).height,
        },
    }


def _lengths(tokens: pl.Series) -> dict[str, float]:
    quantiles = {name: tokens.quantile(q, "nearest") for name, q in _QUANTILES}
    return {"rows": tokens.len(), "mean": float(tokens.mean()), **quantiles}  # type: ignore[arg-type, dict-item]


def _examples(rows: pl.DataFrame) -> Iterator[dict[str, Any]]:
    mixed = pl.col("reward").n_unique().over("problem_id") > 1
    chosen = rows.filter(mixed) if rows.select(mixed.any()).item() else rows
    kept = chosen["problem_id"].unique().sort().head(MOST_EXAMPLES).to_list()
    own = chosen.filter(pl.col("problem_id").is_in(kept)).unique(["problem_id", "reward"], keep="first")
    for row in own.sort("problem_id", "reward", descending=[False, True]).iter_rows(named=True):
        yield {
            "prompt": _cut(row["prompt"]),
            "completion": _cut(row["completion"]),
            "extracted": _cut(row["extracted"]),
            "gold": _cut(row["answer"]),
            "reward": row["reward"],
            "tokens": row["tokens"],
        }


def _cut(text: str | None) -> str | None:
    if text is None:
        return None
    text = text.translate(_VISIBLE)
    if len(text) <= MOST_CHARACTERS:
        return text
    return f"{text[:MOST_CHARACTERS]} [and {len(text) - MOST_CHARACTERS} more characters]"


def rollout_tables(tables: StudyTables) -> tuple[list[Table], list[Table]]:
    """Counts and lengths, for everybody, and the examples, for who wants to read them."""
    record = tables.study.get("rollouts_seen") or {}
    return [_counts_table(tables.rollouts, record), *_lengths_table(record)], _examples_table(record)


def _counts_table(rollouts: Mapping[str, Any], record: Mapping[str, Any]) -> Table:
    """Counts of the one set of rollouts that every method was given, what was dropped included."""
    rows = [(Cell(name), Cell(text)) for name, text in _counts(rollouts)]
    odd: Mapping[str, int] = record.get("odd") or {}
    rows += [(Cell(ODD[name]), Cell(_count(n, rollouts.get("rows")))) for name, n in odd.items() if n]
    note = "One set of rollouts for every method; each method selects from it by its own rule."
    groups = record.get("right_of_group")
    if groups:
        spread = ", ".join(f"{n} right: {problems}" for n, problems in groups.items())
        note += f" Problems by how many of their answers are right: {spread}. A mixed group has right and wrong ones."
    return Table("rollouts", "Rollouts", ("What", "Count"), tuple(rows), note)


def _counts(rollouts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    read = {"read": rollouts["read"]} if "read" in rollouts else {}
    for name, value in {**read, **rollouts}.items():  # how a file was read, before what was in it
        if isinstance(value, Mapping):
            for inner, count in value.items():
                yield f"{_spaced(name)}: {inner}", _count(count, _total(name, rollouts))
        else:
            yield _spaced(name), _count(value, _total(name, rollouts))


def _total(name: str, rollouts: Mapping[str, Any]) -> int | None:
    return next((rollouts[total] for total in _SHARE_OF.get(name, ()) if rollouts.get(total)), None)


def _count(value: Any, total: int | None) -> str:
    if value is None:
        return NOT_MEASURED
    if isinstance(value, float):
        return number(value, 3)
    return f"{value} ({percent(value / total)} %)" if total and isinstance(value, int) else str(value)


def _spaced(name: str) -> str:
    text = name.replace("_", " ")
    return text[:1].upper() + text[1:]


def _lengths_table(record: Mapping[str, Any]) -> list[Table]:
    lengths: Mapping[str, Mapping[str, float]] = record.get("lengths") or {}
    names = [name for name, _ in _QUANTILES]
    rows = [
        tuple(
            Cell(text)
            for text in (part.capitalize(), str(own["rows"]), number(own["mean"], 1), *(f"{own[q]:g}" for q in names))
        )
        for part, own in lengths.items()
    ]
    header = ("Answers", "Rows", "Mean", *names)
    note = "Tokens of the completions, the end of the sequence included; right and wrong by the grade."
    return [Table("lengths", "Lengths of the rollouts, tokens", header, tuple(rows), note)] if rows else []


def _examples_table(record: Mapping[str, Any]) -> list[Table]:
    examples: Sequence[Mapping[str, Any]] = record.get("examples") or []
    if not examples:
        return []
    rows = tuple(
        (
            Cell(one["prompt"]),
            Cell(one["completion"]),
            Cell(_GRADES.get(one["reward"], "no grade")),
            Cell(one["extracted"] if one["extracted"] is not None else "nothing"),
            Cell(one["gold"] if one["gold"] is not None else "not given"),
            Cell(str(one["tokens"])),
        )
        for one in examples
    )
    note = (
        "The first problems in the order of their ids that have right and wrong answers, one of each; of a study "
        "without such problems the first ones. Not chosen by what they say."
    )
    header = ("Problem", "Answer", "Grade", "Read as", "Gold", "Tokens")
    return [Table("examples", "Rollouts to read", header, rows, note, words=5)]
