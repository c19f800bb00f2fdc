"""The accuracy of every run with its interval, one panel a benchmark."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tasks.contracts import RunInfo
from tasks.reporting.formats import benchmark_name, percent
from tasks.reporting.join import StudyTables, base_of, benchmarks, ordered_runs, score, versus
from tasks.reporting.pairs import Geometry
from tasks.reporting.picture import Picture, colour_of
from tasks.reporting.svg import FAINT, INK, PAPER, inline_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas


def accuracy_picture(tables: StudyTables, view: Geometry) -> Picture | None:
    """Dots with intervals, one panel a benchmark, the base as a vertical line."""
    names = benchmarks(tables)
    if not names:
        return None
    base = base_of(tables)

    def draw(canvas: Canvas) -> None:
        for axes, benchmark in zip(np.atleast_1d(canvas.subplots(len(names), 1)), names, strict=True):
            _accuracy_panel(axes, tables, view, benchmark, base)

    rows = sum(len(_scored(tables, benchmark)) for benchmark in names)
    svg = inline_svg("accuracy", "Accuracy of every run with its interval", 0.55 * len(names) + 0.24 * rows, draw)
    sizes = [f"{benchmark_name(name)} n = {max(tables.accuracy.filter(benchmark=name)['n'])}" for name in names]
    note = (
        f"One greedy answer a problem; bars: 95 % Wilson interval; {', '.join(sizes)}. The line is the base, the band "
        "its interval. A filled dot differs from the base (exact McNemar, Holm-adjusted p < 0.05); for an open one no "
        "difference is shown. The intervals ignore the pairing: judge by the test, not by their overlap."
    )
    return Picture("accuracy", "Does it change accuracy?", svg, note, "accuracy")


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
        axes.plot([low, high], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
        face = colour if filled else PAPER
        axes.plot(value, place, "o", color=colour, markerfacecolor=face, markersize=6.5, markeredgewidth=1.6)
        axes.annotate(percent(found.accuracy), (high, place), (5, 0), textcoords="offset points", va="center", size=9)
    axes.set_yticks(range(len(infos)), [info.run for info in infos])
    axes.set_ylim(len(infos) - 0.4, -0.6)
    axes.margins(x=0.12)
    axes.locator_params(axis="x", nbins=6, integer=True)
    axes.tick_params(axis="y", length=0)
    axes.set_title(f"{benchmark_name(benchmark)} accuracy, %", loc="left")
