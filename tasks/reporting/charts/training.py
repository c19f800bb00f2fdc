"""The training losses, one panel a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.reporting.charts.picture import Picture, apart, colour_of, label_of, lone
from tasks.reporting.charts.svg import inline_svg
from tasks.reporting.tables.study import losses
from tasks.reporting.views.join import StudyTables, trained_runs
from tasks.reporting.views.pairs import Geometry

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas


MOST_PANELS = 12
"""Runs that are all drawn; of more, the reference with the nearest and the farthest to it."""


def training_picture(tables: StudyTables, view: Geometry) -> Picture | None:
    """Small multiples: every method has a loss of its own, so each panel has its own height."""
    every = [(info, *losses(tables, info.run)) for info in trained_runs(tables)]
    every = [curve for curve in every if curve[1]]
    if not every:
        return None
    shown = apart([info for info, *_ in every], view)
    curves = every if len(every) <= MOST_PANELS else [curve for curve in every if curve[0] in shown]
    rows = -(-len(curves) // 2)

    def draw(canvas: Canvas) -> None:
        panels = canvas.subplots(rows, 2, sharex=True, squeeze=False).ravel()
        for axes, (info, steps, values) in zip(panels, curves, strict=False):
            axes.plot(steps, values, color=colour_of(info, view), linewidth=1.5, **lone(len(steps)))
            axes.set_title(label_of(info, view), loc="left")
            axes.locator_params(axis="y", nbins=4)
            axes.grid(axis="y", alpha=0.5)
        for axes in panels[len(curves) :]:
            axes.set_visible(False)
        for axes in panels[max(len(curves) - 2, 0) : len(curves)]:
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("Optimiser step")

    svg = inline_svg("training", "Training loss of every run", 0.5 + 1.15 * rows, draw)
    n = max(len(steps) for _, steps, _ in curves)
    note = (
        f"Loss of each method as logged, up to {n} points a run, not smoothed. Every method minimises its own loss, so "
        f"the heights of two panels cannot be compared.{_cut(len(every), len(curves))}"
    )
    return Picture("training", "Did training settle?", svg, note, "training")


def _cut(total: int, shown: int) -> str:
    if shown == total:
        return ""
    return f" Shown: {shown} of {total} runs, the nearest and the farthest; training.parquet has all."
