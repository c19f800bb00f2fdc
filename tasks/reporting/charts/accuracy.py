"""The accuracy of every run with its interval, one panel a benchmark."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from tasks.core.contracts import NO_POWER, RunInfo
from tasks.reporting.charts.picture import Picture, colour_of, label_of, short
from tasks.reporting.charts.svg import FAINT, INK, PAPER, inline_svg
from tasks.reporting.formats import benchmark_name, percent
from tasks.reporting.views.join import MARGIN, NOT_JUDGED, StudyTables, base_of, benchmarks, ordered_runs, score, versus
from tasks.reporting.views.pairs import Geometry

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas


MOST_ROWS = 48
"""Dots of the figure; the table has all benchmarks."""
MOST_CHARACTERS = 40
"""Of a benchmark's name above its panel: one of a file may be longer than the figure is wide."""


def accuracy_picture(tables: StudyTables, view: Geometry) -> Picture | None:
    """Dots with intervals, one panel a benchmark, the base as a vertical line."""
    names = _drawn(tables)
    if not names:
        return None
    base = base_of(tables)

    def draw(canvas: Canvas) -> None:
        for axes, benchmark in zip(np.atleast_1d(canvas.subplots(len(names), 1)), names, strict=True):
            _accuracy_panel(axes, tables, view, benchmark, base)

    rows = sum(len(_scored(tables, benchmark)) for benchmark in names)
    svg = inline_svg("accuracy", "Accuracy of every run with its interval", 0.55 * len(names) + 0.24 * rows, draw)
    sizes = [f"{benchmark_name(name)} n = {_most(tables, name)}" for name in names]
    cut = "" if len(names) == len(benchmarks(tables)) else " The table has the other benchmarks."
    note = (
        f"Bars: 95 % interval over problems; {', '.join(sizes)}. The line is the base, the band its interval. Filled "
        "dot: differs from the base (exact McNemar, p up to 0.05, Holm-adjusted over the main runs); open dot: equal "
        f"to it within {MARGIN} (paired 95 % interval); cross: no power to tell. The bars ignore the pairing: judge by "
        f"the test, not by their overlap.{cut}"
    )
    return Picture("accuracy", "Does it change accuracy?", svg, note, "accuracy")


def _drawn(tables: StudyTables) -> list[str]:
    """The first benchmarks, as many as leave the figure a height that can be read."""
    kept: list[str] = []
    rows = 0
    for name in benchmarks(tables):
        rows += len(_scored(tables, name))
        if kept and rows > MOST_ROWS:
            break
        kept.append(name)
    return kept


def _most(tables: StudyTables, benchmark: str) -> int:
    return max(tables.accuracy.filter(pl.col("benchmark") == benchmark)["n"])


def _scored(tables: StudyTables, benchmark: str) -> list[RunInfo]:
    return [info for info in ordered_runs(tables) if score(tables, info.run, benchmark)]


def _accuracy_panel(axes: Axes, tables: StudyTables, view: Geometry, benchmark: str, base: RunInfo) -> None:
    infos = _scored(tables, benchmark)
    for place, info in enumerate(infos):
        found = score(tables, info.run, benchmark)
        assert found is not None
        value, low, high = 100 * found.accuracy, 100 * found.low, 100 * found.high
        colour = colour_of(info, view)
        if info == base:
            axes.axvspan(low, high, color=FAINT, alpha=0.25, linewidth=0)
            axes.axvline(value, color=INK, linewidth=1)
        against = versus(tables, info.run, base.run, benchmark)
        filled = info == base or (against is not None and against.shown)
        unsure = info != base and (against is None or against.verdict in (NO_POWER, NOT_JUDGED))
        axes.plot([low, high], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
        face = colour if filled else PAPER
        axes.plot(
            value,
            place,
            "x" if unsure else "o",
            color=colour,
            markerfacecolor=face,
            markersize=6.5,
            markeredgewidth=1.6,
        )
        axes.annotate(percent(found.accuracy), (high, place), (5, 0), textcoords="offset points", va="center", size=9)
    axes.set_yticks(range(len(infos)), [label_of(info, view) for info in infos])
    axes.set_ylim(len(infos) - 0.4, -0.6)
    axes.margins(x=0.12)
    axes.locator_params(axis="x", nbins=6, integer=True)
    axes.tick_params(axis="y", length=0)
    axes.set_title(f"{short(benchmark_name(benchmark), MOST_CHARACTERS)} accuracy, %", loc="left")
