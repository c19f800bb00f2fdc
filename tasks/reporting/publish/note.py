"""A study in a few lines of Markdown, for the description of its MLflow run: what its report says first, and one row a
run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tasks.core.results import RunInfo
from tasks.reporting.formats import in_sentence, number, p_value, percent, points
from tasks.reporting.notes import floor_note
from tasks.reporting.render.condense import warned
from tasks.reporting.render.markdown import escape
from tasks.reporting.views.join import HeadlineRow, StudyTables, primary_benchmark, second_benchmark
from tasks.reporting.views.pairs import AT_FLOOR, AT_START, Geometry, headline_rows

BEFORE = 1
"""Sentences before the table. MLflow folds what is longer than a few lines."""


def study_note(
    tables: StudyTables, view: Geometry, lead: Sequence[str], warnings: Sequence[str], pages: Mapping[RunInfo, str]
) -> str:
    """Markdown in which names and messages are text. ``lead``: the sentences of the report's first screen; ``pages``:
    run -> address of its own page, where it has one."""
    second = second_benchmark(tables)
    header = ["run", "accuracy %", "against base", "p", *(["2nd %"] if second else []), "cosine", "norm", "rank"]
    rows = [_cells(row, view, second is not None, pages) for row in headline_rows(tables, view)]
    legend = [
        f"accuracy: {in_sentence(primary_benchmark(tables))}",
        "against base: points",
        "p: exact McNemar, Holm-adjusted over the main runs, not that of replicates",
        *([f"2nd: {in_sentence(second)}"] if second else []),
        f"cosine: to {view.reference.run if view.reference else 'sft'}, * at its noise floor",
    ]
    lines = [
        *([f"**{escape(warned(warnings))}**\n"] if warnings else []),
        *(f"{escape(sentence)}\n" for sentence in lead[:BEFORE]),
        _row(header),
        _row(["---", *["---:"] * (len(header) - 1)]),
        *map(_row, rows),
        f"\n{escape('; '.join(legend))}. {escape(floor_note(view))}\n",
        *(f"{escape(sentence)}\n" for sentence in lead[BEFORE:]),
        "The whole report: `report.html` under *Artifacts*.\n",
    ]
    return "\n".join(lines)


def _cells(row: HeadlineRow, view: Geometry, with_second: bool, pages: Mapping[RunInfo, str]) -> list[str]:
    name, mark = escape(row.info.run), ""
    against = row.first_versus if row.info.method != "base" else None
    if view.reference and row.info in view.runs:
        mark = "\\*" if view.standing(row.info, view.reference) in (AT_FLOOR, AT_START) else ""
    return [
        f"[{name}]({pages[row.info]})" if row.info in pages else name,
        percent(row.first.accuracy if row.first else None),
        points(against.difference) if against else "",
        p_value(against.p) if against else "",
        *([percent(row.second.accuracy if row.second else None)] if with_second else []),
        number(row.cosine, 3) + mark if row.cosine is not None else "",
        number(row.norm, 2) if row.norm is not None else "",
        number(row.effective_rank, 1) if row.effective_rank is not None else "",
    ]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
