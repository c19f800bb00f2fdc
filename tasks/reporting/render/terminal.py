"""The headline of a study and of a comparison for the terminal: one line a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import polars as pl

from tasks.core.results import RunInfo
from tasks.reporting.claims import claims_sentence, claims_table
from tasks.reporting.findings.comparison import comparison_lead
from tasks.reporting.findings.headline import findings
from tasks.reporting.formats import NOT_MEASURED, in_sentence, number, percent, points, size
from tasks.reporting.tables.adapters_glance import adapters_glance
from tasks.reporting.tables.glance import standing_mark, versus_mark
from tasks.reporting.views.join import MARGIN, HeadlineRow, StudyTables, Versus, primary_benchmark, second_benchmark
from tasks.reporting.views.pairs import UNDEFINED, ZERO, Geometry, geometry_of, headline_rows

if TYPE_CHECKING:
    from rich.console import RenderableType

_NAME = 24
"""Letters of a name that a table never breaks."""


def headline_renderable(tables: StudyTables) -> RenderableType:
    """The sentences of the first screen, a line for each run and the warnings, for ``rich``'s ``console.print``; no
    markup in data is obeyed."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    view = tables.geometry
    said, rows = findings(tables, view), headline_rows(tables, view)
    second = second_benchmark(tables)
    header = ["run", f"{in_sentence(primary_benchmark(tables))} %", "vs base"]
    header += [f"{in_sentence(second)} %", "vs base"] if second else []
    grid = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for place, title in enumerate([*header, "cosine", "norm"]):
        # Only the name may be broken: a number cut short would be another number.
        narrowest = None if place else min(_NAME, max(len(row.info.run) for row in rows))
        side: Literal["left", "right"] = "right" if place else "left"
        grid.add_column(Text(title[:10]), justify=side, no_wrap=place > 0, overflow="fold", min_width=narrowest)
    for row in rows:
        grid.add_row(*(Text(text.replace(NOT_MEASURED, "n/m")) for text in _cells(row, view, second is not None)))
    own = f" ({number(view.floor, 3)})" if view.floor is not None else ""
    reference = view.reference.run if view.reference else "sft"
    legend = (
        f"vs base, points: ▲▼ a test shows it, = equal within {MARGIN}, ? undecided. cosine to {reference}: ≈ as near "
        f"as a repeat run{own}, ≠ farther."
    )
    name = Text(str(tables.study.get("name") or "study"), style="bold")
    claims = claims_sentence(claims_table(tables))
    sentences = [Text(f"- {sentence}") for sentence in (*said.lead, *([claims] if claims else []))]
    warnings = [Text(f"! {warning}", style="bold yellow") for warning in said.warnings]
    return Group(name, *sentences, Text(), grid, Text(legend, style="dim"), *warnings)


def _cells(row: HeadlineRow, view: Geometry, with_second: bool) -> list[str]:
    base = row.info.method == "base"
    second = row.second.accuracy if row.second else None
    beside = [percent(second), _against(row.second_versus, base)] if with_second else []
    cosine, mark = "-", " "
    if view.reference and row.info in view.runs:
        # The reference beside itself is no pair of the frame.
        itself = row.info == view.reference and row.cosine is not None
        cosine = "1" if itself else _measure(row.info, view.reference, "cosine", 3, view)
        mark = " " if itself or row.cosine is None else standing_mark(row.info, view).text[0]
    return [
        row.info.run,
        percent(row.first.accuracy if row.first else None),
        _against(row.first_versus, base),
        *beside,
        f"{cosine} {'≈' if mark == 'r' else mark}".rstrip() if mark != " " else f"{cosine}  ",
        size(row.norm, 3) if row.norm is not None else "-",
    ]


def _measure(info: RunInfo, other: RunInfo, metric: str, decimals: int, view: Geometry, k: int | None = None) -> str:
    """A measure of a pair, or in a word why it has none."""
    value = view.value(info.run, other.run, metric, k)
    if value is not None:
        return number(value, decimals)
    why = view.missing(info.run, other.run, metric, k)
    return {ZERO: "zero", UNDEFINED: "undef."}.get(why, why)


def _against(found: Versus | None, base: bool) -> str:
    if base:
        return "-  "
    if found is None:
        return f"{NOT_MEASURED}  "
    return f"{points(found.difference)} {versus_mark(found).text.split()[1]}"


def comparison_renderable(frames: Mapping[str, pl.DataFrame], reference: str) -> RenderableType:
    """What the adapters are to ``reference``, and one row each; for ``rich``'s ``console.print``. No markup in names is
    obeyed.

    ``frames``: at least pair_metrics, spectra and adapters, in the schemas of `tasks.core.frames`; the rows are in
    the order of adapters.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    runs = _compared(frames)
    view = geometry_of(runs, frames["pair_metrics"], next((info for info in runs if info.run == reference), None))
    table = adapters_glance(frames["adapters"], frames["spectra"], frames["pair_metrics"], view)
    grid = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    longest = max((len(info.run) for info in runs), default=0)
    for place, title in enumerate(("adapter", "cosine", "reads as", "top angle", "norm", "shared", "note")):
        words = place in (0, 2, 6)
        narrowest = min(_NAME, longest) if place == 0 else None
        grid.add_column(
            Text(title), justify="left" if words else "right", no_wrap=place not in (0, 6), overflow="fold",
            min_width=narrowest,
        )  # fmt: skip
    for row in table.rows:
        grid.add_row(*(Text(cell.text.replace(NOT_MEASURED, "n/m").replace(ZERO, "zero")) for cell in row))
    legend = (
        f"Against {reference}. Top angle: of the first left singular vectors. Intervals, random subspaces and the "
        "other measures are in the report."
    )
    said = [Text(f"- {sentence}") for sentence in comparison_lead(view, frames["spectra"])]
    return Group(*said, Text(), grid, Text(legend, style="dim"))


def _compared(frames: Mapping[str, pl.DataFrame]) -> list[RunInfo]:
    """The runs of a comparison, as its pairs know them, in the order of the adapters."""
    known: dict[str, RunInfo] = {}
    for side in "ab":
        columns = [f"{name}_{side}" for name in ("run", "method", "seed", "data_seed", "lr")]
        for row in frames["pair_metrics"].select(columns).unique().iter_rows():
            known[row[0]] = RunInfo(*row)
    return [known.get(run, RunInfo(run, run, None, None, None)) for run in frames["adapters"]["run"]]
