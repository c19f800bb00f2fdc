"""Tables without what they repeat: a column, a line or rows that say the same everywhere are said once, below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tasks.reporting.formats import NOT_MEASURED, listed
from tasks.reporting.notes import named
from tasks.reporting.tables.views import Cell, Table

FEWEST = 4
"""Rows from which on a repetition is taken out."""

_MOST_NAMED = 12

_BLANK = {"-", "–"}
"""Cells of rows to which their column does not apply."""

_NOTHING = {"0", "0.0", "0.00", "0.000", "0.0000", NOT_MEASURED, *_BLANK}
"""What a column says that may be left out where every row says it."""


def condensed(table: Table) -> Table:
    """``table`` as a reader needs it. Its CSV file, and the frame beside the page, keep every cell."""
    table = _skimmed(table)
    if len(table.rows) < FEWEST:
        return table
    said: list[str] = []
    table = _without_lines(_without_columns(_without_rows(table, said), said), said)
    note = " ".join([*said, table.note]) if said else table.note
    return replace(table, note=note)


def head(warning: str) -> str:
    """The first words of a warning, up to its first colon or full stop."""
    ends = [place for mark in (": ", ". ") if (place := warning.find(mark)) > 0]
    return warning[: min(ends)] if ends else warning.rstrip(".")


def warned(warnings: Sequence[str]) -> str:
    """The warnings in a line: one by its first sentence, several by their first words."""
    if len(warnings) == 1:
        return f"1 warning: {warnings[0].split('. ')[0].rstrip('.')}."
    return f"{len(warnings)} warnings: {'; '.join(map(head, warnings))}."


def _skimmed(table: Table) -> Table:
    """The columns that are shown of a table that a reader skims, what qualifies a cell on hover."""
    if table.shown is None:
        return table
    light = [
        row.with_cells(replace(cell, subs=(), tip=cell.tip or "; ".join(cell.subs)) for cell in row[: table.shown])
        for row in table.rows
    ]
    return replace(table, header=table.header[: table.shown], rows=light, shown=None)


def _without_rows(table: Table, said: list[str]) -> Table:
    """Without the rows in which nothing was measured."""
    first, *others = table.rows
    empty = [
        row
        for row in others
        if len(row) > table.words + 1 and all(cell.text == NOT_MEASURED for cell in row[table.words :])
    ]
    kept = [first, *(row for row in others if row not in empty)]
    if len(empty) < 2 or len(kept) < 2:
        return table
    words = [[cell.text for cell in row[: table.words]] for row in empty]
    names = [" and ".join(text for text in texts if text != NOT_MEASURED) for texts in words]
    said.append(f"Not measured: {named(names, _MOST_NAMED)}.")
    return replace(table, rows=kept)


def _without_columns(table: Table, said: list[str]) -> Table:
    """Without the columns of numbers in which every row says that there is nothing."""
    gone = {}
    for place in range(max(table.words, 1), len(table.header)):
        texts = {row[place].plain for row in table.rows}
        texts = texts - _BLANK or texts
        if len(texts) == 1 and texts <= _NOTHING:
            gone[place] = texts.pop()
    kept = [place for place in range(len(table.header)) if place not in gone]
    if not gone or len(kept) <= table.words:
        return table
    for text in dict.fromkeys(gone.values()):
        columns = listed([table.header[place] for place in gone if gone[place] == text])
        said.append(f"In every row {text}: {columns}.")
    return replace(
        table,
        header=tuple(table.header[place] for place in kept),
        rows=[row.with_cells(row[place] for place in kept) for row in table.rows],
    )


def _without_lines(table: Table, said: list[str]) -> Table:
    """Without the line under a number that stands under every number of its column."""
    columns = list(zip(*table.rows, strict=True))
    for place, cells in enumerate(columns):
        qualified = [cell for cell in cells if cell.subs]
        common = set.intersection(*(set(cell.subs) for cell in qualified)) if len(qualified) >= FEWEST else set()
        if not common or len(qualified) < len(cells) - 2:
            continue
        lines = [line for line in qualified[0].subs if line in common]
        said.append(f"{table.header[place]}, in every row: {', '.join(lines)}.")
        columns[place] = tuple(_lighter(cell, common) for cell in cells)
    rows = zip(*columns, strict=True)
    return replace(table, rows=[row.with_cells(cells) for row, cells in zip(table.rows, rows, strict=True)])


def _lighter(cell: Cell, lines: set[str]) -> Cell:
    return replace(cell, subs=tuple(line for line in cell.subs if line not in lines))
