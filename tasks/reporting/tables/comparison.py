"""The adapters of a comparison as rows of strings."""

from __future__ import annotations

from typing import Any

import polars as pl

from tasks.reporting.formats import NOT_MEASURED
from tasks.reporting.tables.views import Cell, Table, said

MOST_ROWS = 60


def adapters_table(adapters: pl.DataFrame) -> Table:
    """What each adapter is, and how its update was had."""
    rows = []
    for row in adapters.iter_rows(named=True):
        rank = "full" if row["rank"] is None else str(row["rank"])
        sizes = (rank, *(_count(row[name]) for name in ("modules", "parameters")), _bytes(row["size"]))
        words = (row["source"], row["base"] or "not named", row["kind"])
        update = Cell(row["update"], said(_stored(row)))
        rows.append(
            (Cell(row["run"], said(row["note"] or "")), *map(Cell, words), update, *(Cell(text) for text in sizes))
        )
    header = ("Run", "Source", "Base", "Kind", "Update", "Rank", "Modules", "Parameters", "Size")
    note = (
        "Rank: the largest of a module. Parameters: entries of the factors, or of the changed weights. Under a "
        "difference of stored weights: their type, the share of entries that differ, and the expected norm of the "
        "rounding to that type over the update's."
    )
    return Table("adapters", "What was compared", header, tuple(rows), note, words=5)


def _stored(row: dict[str, Any]) -> str:
    if row["dtype"] is None:
        return ""
    return f"{row['dtype']}; {100 * row['changed']:.3g} % differ; rounding {100 * row['rounding']:.2g} %"


def unshared_table(unshared: pl.DataFrame) -> Table | None:
    """Modules that only one run of a pair has; None where there are none."""
    if unshared.is_empty():
        return None
    rows = [tuple(Cell(text) for text in row) for row in unshared.head(MOST_ROWS).iter_rows()]
    cut = (
        f"The first {MOST_ROWS} of {unshared.height}; unshared.parquet has all." if unshared.height > MOST_ROWS else ""
    )
    return Table("unshared", "Modules on one side only", ("Run", "Not in", "Module"), tuple(rows), cut, words=3)


def _count(value: int | None) -> str:
    return NOT_MEASURED if value is None else f"{value:,}"


def _bytes(value: int | None) -> str:
    """``1234567 -> '1.2 MB'``, in powers of ten."""
    if value is None:
        return NOT_MEASURED
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value} B"
