"""The headline of a study and of a comparison for the terminal: one line a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import polars as pl

from tasks.core.contracts import DIFFERS_LITTLE, EQUAL, NO_POWER, RunInfo
from tasks.reporting.claims import claims_sentence, claims_table
from tasks.reporting.findings.headline import findings
from tasks.reporting.formats import NOT_MEASURED, in_sentence, number, p_value, percent, points
from tasks.reporting.metrics import PAIR, UPDATE
from tasks.reporting.notes import count, floor_note, interval, percentile
from tasks.reporting.tables.pairs import Shown, columns_of
from tasks.reporting.views.join import (
    MARGIN,
    HeadlineRow,
    StudyTables,
    Versus,
    primary_benchmark,
    second_benchmark,
    spectrum_value,
)
from tasks.reporting.views.pairs import (
    AT_FLOOR,
    AT_START,
    REACHED,
    UNDEFINED,
    ZERO,
    Geometry,
    geometry_of,
    headline_rows,
)

if TYPE_CHECKING:
    from rich.console import RenderableType


def headline_renderable(tables: StudyTables) -> RenderableType:
    """Warnings, the headline table and its sentences, for ``rich``'s ``console.print``; no markup in data is obeyed."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    view = tables.geometry
    said, rows = findings(tables, view), headline_rows(tables, view)
    second = second_benchmark(tables)
    reference = view.reference.run if view.reference else "sft"
    header = ["run", "acc %", "vs base", "p"]
    header += ["2nd %", "vs base", "p", "loss", "cosine"] if second else ["loss", "cosine"]
    grid = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for place, title in enumerate(header):
        # Only the name may be broken: a number cut short would be another number.
        narrowest = None if place else min(12, max(len(row.info.run) for row in rows))
        side: Literal["left", "right"] = "right" if place else "left"
        grid.add_column(Text(title), justify=side, no_wrap=place > 0, overflow="fold", min_width=narrowest)
    for row in rows:
        grid.add_row(*(Text(text.replace(NOT_MEASURED, "n/m")) for text in _cells(row, view, second is not None)))
    zero = "; zero: an update of zero has no direction" if view.zero else ""
    beside = f" 2nd: {in_sentence(second)};" if second else ""
    legend = (
        f"acc: {in_sentence(primary_benchmark(tables))};{beside} vs base: points; p: exact McNemar, Holm-adjusted over "
        f"the main runs (not that of replicates and references), = equal within {MARGIN}, ~ no power to tell; loss: "
        f"nats a token of the reference solutions; cosine: to {reference}, * at its noise floor{zero}; n/m: not "
        f"measured. {floor_note(view)}"
    )
    name = Text(str(tables.study.get("name") or "study"), style="bold")
    warnings = [Text(warning, style="bold yellow") for warning in said.warnings]
    claims = claims_sentence(claims_table(tables))
    sentences = [Text(f"- {sentence}") for sentence in (*said.sentences, *([claims] if claims else []))]
    return Group(name, *warnings, *sentences, Text(), grid, Text(legend, style="dim"))


def _cells(row: HeadlineRow, view: Geometry, with_second: bool) -> list[str]:
    base = row.info.method == "base"
    second = row.second.accuracy if row.second else None
    beside = [percent(second), *_against(row.second_versus, base)] if with_second else []
    cosine, mark = "-", " "
    if view.reference and row.info in view.runs:
        # The reference beside itself is no pair of the frame.
        itself = row.info == view.reference and row.cosine is not None
        cosine = number(row.cosine, 3) if itself else _measure(row.info, view.reference, "cosine", 3, view)
        mark = "*" if view.standing(row.info, view.reference) in (AT_FLOOR, AT_START) else " "
    return [
        row.info.run,
        percent(row.first.accuracy if row.first else None),
        *_against(row.first_versus, base),
        *beside,
        number(row.first.answer_loss if row.first else None, 3),
        cosine + mark,
    ]


def _measure(info: RunInfo, other: RunInfo, metric: str, decimals: int, view: Geometry, k: int | None = None) -> str:
    """A measure of a pair, or in a word why it has none."""
    value = view.value(info.run, other.run, metric, k)
    if value is not None:
        return number(value, decimals)
    why = view.missing(info.run, other.run, metric, k)
    return {ZERO: "zero", UNDEFINED: "undef."}.get(why, why)


def _against(found: Versus | None, base: bool) -> list[str]:
    if base:
        return ["-", "- "]
    if found is None:
        return [NOT_MEASURED, f"{NOT_MEASURED} "]
    mark = {NO_POWER: "~", EQUAL: "=", DIFFERS_LITTLE: "="}.get(found.verdict, " ")
    return [points(found.difference), p_value(found.p) + mark]


def comparison_renderable(frames: Mapping[str, pl.DataFrame], reference: str) -> RenderableType:
    """One row an adapter, against ``reference``; for ``rich``'s ``console.print``. No markup in names is obeyed.

    ``frames``: at least pair_metrics, spectra and adapters, in the schemas of `tasks.core.contracts`; the rows are in
    the order of adapters.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    runs = _compared(frames)
    view = geometry_of(runs, frames["pair_metrics"], next((info for info in runs if info.run == reference), None))
    columns = columns_of(view, "terminal")
    sizes = [(metric, column) for metric in UPDATE for column in metric.terminal]
    header = ["adapter", "cosine", "95 %", "pctl", *(column.title for column in columns)]
    grid = Table(box=SIMPLE_HEAD, padding=0, show_edge=False)
    for place, title in enumerate([*header, *(column.title for _, column in sizes)]):
        side: Literal["left", "right"] = "right" if place else "left"
        # Only the name may be broken: a number cut short would be another number.
        narrowest = None if place else 12
        grid.add_column(Text(title), justify=side, no_wrap=place > 0, overflow="fold", min_width=narrowest)
    for info in runs:
        own = [metric.text(spectrum_value(frames["spectra"], info.run, metric.name), column.decimals)
               for metric, column in sizes]  # fmt: skip
        texts = (*_against_reference(info, view, columns), *own)
        grid.add_row(*(Text(text.replace(NOT_MEASURED, "n/m")) for text in texts))
    zero = "; zero: an update of zero has no direction" if view.zero else ""
    over = count(view.layers, "layer") if view.layers else "modules"
    columns_are = "; ".join(metric.legend for metric in (*PAIR, *UPDATE) if metric.legend)
    legend = (
        f"Against {reference} over {view.modules} modules. 95 %: interval over {over}; "
        f"pctl: percent of random subspaces below the cosine; {columns_are}; * at its noise floor{zero}; n/m: not "
        "measured. "
        f"{floor_note(view)}"
    )
    return Group(grid, Text(legend, style="dim"))


def _compared(frames: Mapping[str, pl.DataFrame]) -> list[RunInfo]:
    """The runs of a comparison, as its pairs know them, in the order of the adapters."""
    known: dict[str, RunInfo] = {}
    for side in "ab":
        columns = [f"{name}_{side}" for name in ("run", "method", "seed", "data_seed", "lr")]
        for row in frames["pair_metrics"].select(columns).unique().iter_rows():
            known[row[0]] = RunInfo(*row)
    return [known.get(run, RunInfo(run, run, None, None, None)) for run in frames["adapters"]["run"]]


def _against_reference(info: RunInfo, view: Geometry, columns: Sequence[Shown]) -> list[str]:
    if view.reference is None or info == view.reference:
        return [info.run, "itself" if info == view.reference else NOT_MEASURED, "-", "-", *("-" for _ in columns)]
    reference = view.reference.run
    cosine = view.estimate(info.run, reference, "cosine")
    mark = "*" if view.standing(info, view.reference) in REACHED else ""
    values = [_measure(info, view.reference, one.metric.name, one.decimals, view, one.k) for one in columns]
    close = interval(cosine, 2).replace("0.", ".").replace(", ", ",")
    first = _measure(info, view.reference, "cosine", 3, view) + mark
    return [info.run, first, close, percentile(cosine), *values]
