"""The headline of a study and of a comparison for the terminal: one line a run."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import polars as pl

from tasks.core.frames import UNSHARED
from tasks.core.results import RunInfo
from tasks.reporting.claims.output import claims_sentence
from tasks.reporting.claims.paper import claims_table
from tasks.reporting.findings.comparison import comparison_lead
from tasks.reporting.findings.headline import findings
from tasks.reporting.formats import NOT_MEASURED, in_sentence, number
from tasks.reporting.tables.adapters import adapters_glance
from tasks.reporting.tables.headline import headline_table
from tasks.reporting.tables.merges import merge_lines
from tasks.reporting.tables.relations import relation_lines
from tasks.reporting.views.accuracy import MARGIN
from tasks.reporting.views.pairs import UNDEFINED, ZERO
from tasks.reporting.views.study import Comparison, Study

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_NAME = 24
"""Letters of a name that a table never breaks."""


def grid(
    titles: Sequence[str], rows: Iterable[Sequence[str]], words: Container[int] = (0,), narrowest: int | None = None
) -> Table:
    """A table for ``rich``. Columns of ``words`` stand left; those that are no first or last one are not broken, for a
    number cut short would be another number. ``narrowest``: letters of the first column."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for place, title in enumerate(titles):
        table.add_column(
            Text(title), justify="left" if place in words else "right", overflow="fold",
            no_wrap=place not in words or 0 < place < len(titles) - 1, min_width=None if place else narrowest,
        )  # fmt: skip
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def headline_renderable(study: Study) -> RenderableType:
    """The sentences of the first screen, a line for each run and the warnings, for ``rich``'s ``console.print``; no
    markup in data is obeyed."""
    from rich.console import Group
    from rich.text import Text

    view, said, table = study.geometry, findings(study), headline_table(study)
    header = ["run", f"{in_sentence(study.primary)} %", "vs base"]
    header += [f"{in_sentence(study.second)} %", "vs base"] if study.second else []
    rows = []
    for row, cells in zip(study.rows, table.rows, strict=True):
        run, cosine, beside, accuracy, against, norm, _, *others = cells
        two = ((accuracy, against), *([(others[0], others[1])] if study.second else []))
        scores = (text for score, versus in two for text in (score.text, f"{versus.text} {versus.mark[:1] or ' '}"))
        mark = beside.text[0] if beside.tone and row.cosine is not None else " "
        direction = f"{cosine.text} {'≈' if mark == 'r' else mark}".rstrip().ljust(len(cosine.text) + 2)
        rows.append([_brief(text) for text in (run.text, *scores, direction, norm.text)])
    narrowest = min(_NAME, max(len(row[0]) for row in rows))
    drawn = grid([title[:10] for title in (*header, "cosine", "norm")], rows, narrowest=narrowest)
    own = f" ({number(view.floor, 3)})" if view.floor is not None else ""
    reference = view.reference.run if view.reference else "sft"
    legend = (
        f"vs base, points: ▲▼ a test shows it, = equal within {MARGIN}, ? undecided. cosine to {reference}: ≈ as near "
        f"as a repeat run{own}, ≠ farther."
    )
    name = Text(study.name, style="bold")
    claims = claims_sentence(claims_table(study))
    sentences = [Text(f"- {sentence}") for sentence in (*said.lead, *([claims] if claims else []))]
    warnings = [Text(f"! {warning}", style="bold yellow") for warning in said.warnings]
    return Group(name, *sentences, Text(), drawn, Text(legend, style="dim"), *warnings)


def _brief(text: str) -> str:
    """What is missing, in a word."""
    return text.replace(NOT_MEASURED, "n/m").replace(ZERO, "zero").replace(UNDEFINED, "undef.")


def comparison_renderable(frames: Mapping[str, pl.DataFrame], reference: str) -> RenderableType:
    """What the adapters are to ``reference``, and one row each; for ``rich``'s ``console.print``. No markup in names is
    obeyed.

    ``frames``: at least pair_metrics, spectra and adapters, in the schemas of `tasks.core.frames`; the rows are in
    the order of adapters.
    """
    from rich.console import Group
    from rich.text import Text

    runs = _compared(frames)
    compared = Comparison(
        runs, frames["pair_metrics"], frames["spectra"], frames["adapters"], pl.DataFrame(schema=UNSHARED),
        next((info for info in runs if info.run == reference), None),
    )  # fmt: skip
    table = adapters_glance(compared)
    relations, merges = frames.get("relations"), frames.get("merges")
    looks_like = [] if relations is None else [f"- {line}" for line in relation_lines(relations)]
    pairs = [Text("Looks like:"), *map(Text, looks_like), Text()] if looks_like else []
    summed = [] if merges is None else [Text("Before a merge:")]
    summed += [] if merges is None else map(Text, merge_lines(merges, frames.get("merge_losses"), frames["adapters"]))
    narrowest = min(_NAME, max((len(info.run) for info in runs), default=0))
    titles = ("adapter", "cosine", "reads as", "top angle", "norm", "shared", "note")
    rows = [[_brief(cell.text) for cell in row] for row in table.rows]
    drawn = grid(titles, rows, words=(0, 2, 6), narrowest=narrowest)
    legend = (
        f"Against {reference}. Top angle: of the first left singular vectors. Intervals, random subspaces and the "
        "other measures are in the report."
    )
    said = [Text(f"- {sentence}") for sentence in comparison_lead(compared)]
    return Group(*said, Text(), drawn, Text(legend, style="dim"), Text(), *pairs, *summed)


def _compared(frames: Mapping[str, pl.DataFrame]) -> list[RunInfo]:
    """The runs of a comparison, as its pairs know them, in the order of the adapters."""
    known: dict[str, RunInfo] = {}
    for side in "ab":
        columns = [f"{name}_{side}" for name in ("run", "method", "seed", "data_seed", "lr")]
        for row in frames["pair_metrics"].select(columns).unique().iter_rows():
            known[row[0]] = RunInfo(*row)
    return [known.get(run, RunInfo(run, run, None, None, None)) for run in frames["adapters"]["run"]]
