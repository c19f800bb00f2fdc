"""What logs of models on the same problems say, in one sentence: who differs, who is equal, who cannot be told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from tasks.core.results import DIFFERS, NO_POWER, differs_little, equal_within, in_points
from tasks.reporting.charts.picture import short
from tasks.reporting.formats import listed, span
from tasks.reporting.notes import count

MOST_NAMED = 3
"""Winners, models and pairs that the sentence names one by one; the table has all."""

_LONGEST = 40

Rows = Sequence[dict[str, Any]]


def answer(pairs: pl.DataFrame, margin: float) -> str:
    """The sentence on ``pairs`` (LOG_PAIRS), which are called equal within ``margin`` points."""
    rows = pairs.to_dicts()
    equal = [row for row in rows if row["verdict"] == equal_within(margin / 100)]
    undecided = [row for row in rows if row["verdict"] == NO_POWER]
    differ = [row for row in rows if row["verdict"].startswith(DIFFERS)]
    return "; ".join([*_ahead(differ, margin), *_equal(equal, margin), *_undecided(undecided, len(rows))]) + "."


def _ahead(rows: Rows, margin: float) -> list[str]:
    """``a is right more often than b and c (by 2.4 to 8.0 points)``, first who is ahead of most."""
    won: dict[str, Rows] = {}
    for row in rows:
        ahead = row["a"] if row["difference"] > 0 else row["b"]
        won[ahead] = [*won.get(ahead, ()), row]
    order = sorted(won, key=lambda name: -len(won[name]))
    said = []
    for name in order[:MOST_NAMED]:
        by = span([abs(row["difference"]) for row in won[name]], 1)
        little = all(row["verdict"] == differs_little(margin / 100) for row in won[name])
        less = f", surely less than {margin:g}" if little else ""
        others = [row["b"] if row["a"] == name else row["a"] for row in won[name]]
        said.append(f"{_name(name)} is right more often than {_named(others)} (by {by} points{less})")
    rest = sum(len(won[name]) for name in order[MOST_NAMED:])
    return [*said, f"{count(rest, 'more pair')} differ{'s' if rest == 1 else ''}"] if rest else said


def _equal(rows: Rows, margin: float) -> list[str]:
    """``a, b and c are equal within 2 points`` where every pair of them is; else the pairs."""
    if not rows:
        return []
    names = list(dict.fromkeys(name for row in rows for name in (row["a"], row["b"])))
    whole = 2 * len(rows) == len(names) * (len(names) - 1)
    who = _named(names) if whole else f"{count(len(rows), 'pair')} ({_pairs(rows)})"
    return [f"{who} are equal within {in_points(margin / 100)}"]


def _undecided(rows: Rows, pairs: int) -> list[str]:
    if not rows:
        return []
    limits = [row["detectable"] for row in rows if row["detectable"] is not None]
    missed = f": on these problems a true difference below {max(limits):.1f} points is mostly missed" if limits else ""
    if len(rows) == 1:
        a, b = _name(rows[0]["a"]), _name(rows[0]["b"])
        return [f"whether {a} or {b} is right more often cannot be told{missed}"]
    who = f"none of the {pairs} pairs can" if len(rows) == pairs else f"{len(rows)} pairs ({_pairs(rows)}) cannot"
    return [f"{who} be told apart{missed}"]


def _pairs(rows: Rows) -> str:
    named = [f"{_name(row['a'])} and {_name(row['b'])}" for row in rows[:MOST_NAMED]]
    return ", ".join([*named, "..."] if len(rows) > MOST_NAMED else named)


def _named(names: Sequence[str]) -> str:
    return f"{len(names)} models" if len(names) > MOST_NAMED + 1 else listed([_name(name) for name in names])


def _name(name: str) -> str:
    return short(name, _LONGEST)
