"""The headline for the terminal at the end of a study."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from tasks.reporting.findings import findings
from tasks.reporting.join import StudyTables
from tasks.reporting.pairs import geometry
from tasks.reporting.tables import Cell, headline_table

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text


_ON_THE_PAGE_ONLY = ("Hard accuracy, %", "Norm of update", "Effective rank")
"""Columns that a terminal of 80 characters has no room for."""


def _cell(cell: Cell) -> Text:
    from rich.text import Text

    return Text.assemble(cell.text, *([("\n" + cell.sub, "dim")] if cell.sub else []))


def headline_renderable(tables: StudyTables) -> RenderableType:
    """Warnings, the headline table and its sentences, for ``rich``'s ``console.print``; no markup in data is obeyed."""
    from rich.console import Group
    from rich.table import Table as Grid
    from rich.text import Text

    view = geometry(tables)
    said, table = findings(tables, view), headline_table(tables, view)
    grid = Grid(title=Text(f"{tables.study.get('name') or 'study'}: {table.title.lower()}"), title_justify="left")
    kept = [place for place, title in enumerate(table.header) if title not in _ON_THE_PAGE_ONLY]
    for place in kept:
        justify: Literal["left", "right"] = "left" if place < table.words else "right"
        grid.add_column(Text(table.header[place]), justify=justify, overflow="fold")
    for place, row in enumerate(table.rows):
        cells = [Text(row[0].text), *(_cell(row[column]) for column in kept[1:])]
        grid.add_row(*cells, style="bold" if table.marks.get(place) == "base" else "")
    warnings = [Text(warning, style="bold yellow") for warning in said.warnings]
    return Group(*warnings, grid, *(Text(f"- {sentence}") for sentence in said.sentences))
