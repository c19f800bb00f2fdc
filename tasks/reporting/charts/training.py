"""The training losses, one panel a run."""

from __future__ import annotations

from tasks.reporting.charts.lines import Line, lines_views
from tasks.reporting.charts.picture import Picture, apart, colour_of, label_of
from tasks.reporting.charts.style import heading, panels, quantity, unnamed
from tasks.reporting.tables.study import losses
from tasks.reporting.views.join import StudyTables, trained_runs
from tasks.reporting.views.pairs import Geometry

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
    steps = [step for _, own, _ in curves for step in own]
    ends = (min(steps), max(steps)) if min(steps) < max(steps) else (steps[0] - 0.5, steps[0] + 0.5)
    lines = [
        [Line(list(zip(own, values, strict=True)), info.run, colour_of(info, view))] for info, own, values in curves
    ]
    x = quantity("x", "Optimiser step", ends, format="d", tickCount=4, tickMinStep=1)
    y = quantity("y", pad=4, grid=True, tickCount=4, minExtent=30)
    drawn = lines_views(lines, x, y, legend=False)
    views = [
        {
            "title": heading(label_of(info, view)),
            "width": 136,
            "height": 54,
            **(one if place >= len(curves) - 2 else unnamed(one)),
        }
        for place, ((info, *_), one) in enumerate(zip(curves, drawn, strict=True))
    ]
    n = max(len(steps) for _, steps, _ in curves)
    note = (
        f"Loss of each method as logged, up to {n} points a run, not smoothed. Every method minimises its own loss, so "
        f"the heights of two panels cannot be compared.{_cut(len(every), len(curves))}"
    )
    label = "Training loss of every run"
    return Picture("training", "Did training settle?", label, panels(views, columns=2), note, "training")


def _cut(total: int, shown: int) -> str:
    if shown == total:
        return ""
    return f" Shown: {shown} of {total} runs, the nearest and the farthest; training.parquet has all."
