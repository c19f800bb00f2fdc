"""Rows of the joined frames: grouped, each training once, and how the spread of their values reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import polars as pl

from tasks.reporting.estimates import Spread, spread
from tasks.reporting.formats import NOT_MEASURED
from tasks.reporting.tables.views import Cell

Rows = list[dict[str, Any]]


def grouped(rows: Iterable[dict[str, Any]], *keys: str) -> dict[tuple[Any, ...], Rows]:
    """Rows by the values of ``keys``, groups and rows in their order."""
    found: dict[tuple[Any, ...], Rows] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return found


def once(frame: pl.DataFrame) -> Rows:
    """The rows whose training (or pair) no earlier study has."""
    return frame.filter(~pl.col("repeated")).to_dicts()


def values(rows: Rows, column: str) -> list[float | None]:
    """One column of some rows."""
    return [row[column] for row in rows]


def told(found: Spread | None, form: Callable[[float], str]) -> str:
    """``'0.98 (0.97 to 0.99, n = 3)'``, for sentences."""
    if found is None:
        return NOT_MEASURED
    if found.n == 1:
        return f"{form(found.mean)} (n = 1)"
    return f"{form(found.mean)} ({found.range(form)}, n = {found.n})"


def cell(
    rows: Rows, column: str, form: Callable[[float], str], width: Callable[[float], str] | None = None, of: int = 0
) -> Cell:
    """The spread of one column as `spread_cell`; n is said where it is not that of the rows, or ``of``."""
    return spread_cell(spread(values(rows, column)), form, width, of or len(rows))


def spread_cell(
    found: Spread | None, form: Callable[[float], str], width: Callable[[float], str] | None = None, of: int = 0
) -> Cell:
    """The mean, below it the standard deviation and the range, and n where it is not ``of``, which stands beside.

    ``width``: how a deviation reads, where it has another form than the value.
    """
    if found is None:
        return Cell(NOT_MEASURED)
    n = () if found.n == of else (f"n = {found.n}",)
    if found.sd is None:
        return Cell(form(found.mean), ("no spread", *n))
    return Cell(form(found.mean), (f"sd {(width or form)(found.sd)}", found.range(form), *n))
