"""Loss and accuracy along the straight paths to the reference: one figure a reading, one panel a pair."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from tasks.core.contracts import RunInfo
from tasks.reporting.charts.picture import Picture, colour_of, label_of
from tasks.reporting.charts.svg import FAINT, INK, inline_svg
from tasks.reporting.notes import count
from tasks.reporting.views.join import StudyTables
from tasks.reporting.views.pairs import Geometry
from tasks.reporting.views.paths import READINGS, curve, paths_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

MOST_PANELS = 9
"""Pairs that are drawn: the noise floors first, then those of the highest barriers."""

_NARROW = 18
"""Characters of a title over one of three panels side by side."""

Curve = list[tuple[float, float]]


def path_pictures(tables: StudyTables, view: Geometry) -> list[Picture]:
    """Small multiples over the pairs with the reference, for each reading that was taken."""
    if view.reference is None or tables.connectivity.is_empty():
        return []
    shown = _chosen(tables, view, view.reference)
    drawn = (_picture(tables, view, view.reference, shown, reading) for reading in READINGS)
    return [picture for picture in drawn if picture is not None]


def _chosen(tables: StudyTables, view: Geometry, reference: RunInfo) -> list[RunInfo]:
    """The runs with a path to the reference, in the study's order; of many those whose paths say most."""
    paths, frame = paths_of(tables.barriers), tables.connectivity
    ends = frame.filter((pl.col("run_a") == reference.run) | (pl.col("run_b") == reference.run))
    measured = {*ends["run_a"], *ends["run_b"]} - {reference.run}

    def rank(info: RunInfo) -> tuple[bool, float]:
        found = (paths.find(info.run, reference.run, False, reading) for reading in paths.readings)
        highest = max((barrier.value for barrier in found if barrier and barrier.value is not None), default=0.0)
        return view.twin(info, reference) is None, -highest

    runs = [info for info in view.runs if info.run in measured]
    kept = sorted(runs, key=rank)[:MOST_PANELS]
    return [info for info in runs if info in kept]


def _picture(
    tables: StudyTables, view: Geometry, reference: RunInfo, shown: list[RunInfo], reading: str
) -> Picture | None:
    scale = READINGS[reading].scale
    curves: list[tuple[RunInfo, Curve, Curve]] = []
    for info in shown:
        plain, matched = (
            [
                (alpha, scale * value)
                for alpha, value in curve(tables.connectivity, info.run, reference.run, flag, reading)
            ]
            for flag in (False, True)
        )
        if plain or matched:
            curves.append((info, plain, matched))
    if not curves:
        return None
    columns = 3 if max(len(_title(info, view, reference)) for info, *_ in curves) <= _NARROW else 2
    rows = -(-len(curves) // columns)

    def draw(canvas: Canvas) -> None:
        panels = canvas.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for axes, (info, plain, matched) in zip(panels, curves, strict=False):
            _panel(axes, info, plain, matched, view, reference)
        for axes in panels[len(curves) :]:
            axes.set_visible(False)
        for axes in panels[max(len(curves) - columns, 0) : len(curves)]:
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("alpha")
        unit = "Accuracy, %" if reading == "accuracy" else f"Loss, {READINGS[reading].unit}"
        canvas.supylabel(unit, fontsize=10)

    frame = tables.connectivity.filter(pl.col("reading") == reading, pl.col("run_a") != pl.col("run_b"))
    title = f"{READINGS[reading].title} on the way to {reference.run}"
    svg = inline_svg(f"path-{reading}", title, 0.6 + 1.25 * rows, draw)
    total = {*frame["run_a"], *frame["run_b"]} - {reference.run}
    cut = (
        f" Shown: {len(curves)} of {len(total)} runs, those of the highest barriers."
        if len(curves) < len(total)
        else ""
    )
    points = frame["alpha"].n_unique()
    note = (
        f"alpha 0: the run named, alpha 1: {reference.run}; {count(max(frame['n']), 'problem')}, "
        f"{points} points a path. Solid: the updates as trained; dashed: both scaled to one norm, so its ends are "
        f"other models; dotted: the straight line between the ends, which a barrier {_side(reading)}. Black: noise "
        f"floor. One height for all panels.{cut}"
    )
    return Picture(f"path-{reading}", title, svg, note, "barriers")


def _side(reading: str) -> str:
    return "lies below" if reading == "accuracy" else "rises above"


def _title(info: RunInfo, view: Geometry, reference: RunInfo) -> str:
    return f"{label_of(info, view)}{' (floor)' if view.twin(info, reference) else ''}"


def _panel(axes: Axes, info: RunInfo, plain: Curve, matched: Curve, view: Geometry, reference: RunInfo) -> None:
    twin = view.twin(info, reference)
    colour = INK if twin else colour_of(info, view)
    for points, style in ((plain, "-"), (matched, "--")):
        if points:
            (_, first), (_, last) = points[0], points[-1]
            axes.plot([0, 1], [first, last], color=FAINT, linestyle=":", linewidth=1)
            axes.plot(
                *zip(*points, strict=True), color=colour, linestyle=style, marker="o", markersize=2.2, linewidth=1.3
            )
    axes.set_title(_title(info, view, reference), loc="left", fontsize=9)
    axes.set_xticks([0, 0.5, 1], ["0", ".5", "1"])
    axes.locator_params(axis="y", nbins=4)
    axes.grid(axis="y", alpha=0.5)
