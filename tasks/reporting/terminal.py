"""The headline for the terminal at the end of a study: one line a run, in 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.reporting.findings import findings, floor_note
from tasks.reporting.formats import NOT_MEASURED, benchmark_name, number, p_value, percent, points
from tasks.reporting.join import SIGNIFICANT, HeadlineRow, StudyTables, Versus, primary_benchmark
from tasks.reporting.pairs import AT_FLOOR, Geometry, geometry, headline_rows

if TYPE_CHECKING:
    from rich.console import RenderableType


def headline_renderable(tables: StudyTables) -> RenderableType:
    """Warnings, the headline table and its sentences, for ``rich``'s ``console.print``; no markup in data is obeyed."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    view = geometry(tables)
    said, rows = findings(tables, view), headline_rows(tables, view)
    with_hard = any(row.hard for row in rows)
    reference = view.reference.run if view.reference else "sft"
    header = ["run", "acc %", "vs base", "p"]
    header += ["hard %", "vs base", "p", "loss", "cosine"] if with_hard else ["loss", "cosine"]
    grid = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for place, title in enumerate(header):
        grid.add_column(Text(title), justify="right" if place else "left", no_wrap=True, overflow="ellipsis")
    for row in rows:
        grid.add_row(*(Text(text.replace(NOT_MEASURED, "n/m")) for text in _cells(row, view, with_hard)))
    legend = (
        f"acc: {benchmark_name(primary_benchmark(tables)).lower()}; vs base: points; p: exact McNemar, Holm-adjusted, "
        f"no difference shown from {SIGNIFICANT} on; loss: nats a token of the reference solutions; cosine: to "
        f"{reference}, * at the noise floor; n/m: not measured. {floor_note(view)}"
    )
    name = Text(str(tables.study.get("name") or "study"), style="bold")
    warnings = [Text(warning, style="bold yellow") for warning in said.warnings]
    sentences = [Text(f"- {sentence}") for sentence in said.sentences]
    return Group(name, *warnings, *sentences, Text(), grid, Text(legend, style="dim"))


def _cells(row: HeadlineRow, view: Geometry, with_hard: bool) -> list[str]:
    base = row.info.method == "base"
    hard = [percent(row.hard.accuracy if row.hard else None), *_against(row.hard_versus, base)] if with_hard else []
    standing = view.standing(row.info, view.reference) if view.reference and row.info in view.runs else ""
    mark = "*" if standing == AT_FLOOR else " "
    return [
        row.info.run,
        percent(row.heldout.accuracy if row.heldout else None),
        *_against(row.heldout_versus, base),
        *hard,
        number(row.heldout.answer_loss if row.heldout else None, 3),
        "-" if base else number(row.cosine, 3) + mark,
    ]


def _against(found: Versus | None, base: bool) -> list[str]:
    if base:
        return ["-", "-"]
    return [points(found.difference if found else None), p_value(found.p_holm if found else None)]
