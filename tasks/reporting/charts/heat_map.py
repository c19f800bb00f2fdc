"""The heat-map of the cosines between updates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tasks.reporting.charts.picture import Picture, label_of
from tasks.reporting.charts.svg import FAINT, WIDTH, inline_svg
from tasks.reporting.formats import number
from tasks.reporting.notes import floor_note
from tasks.reporting.views.floors import KINDS
from tasks.reporting.views.pairs import REACHED, ZERO, Geometry, cosine_matrix

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas


MOST_LABELLED = 11
"""Runs above which the cells have no room for numbers; the table has them."""


def cosine_picture(view: Geometry) -> Picture | None:
    """Heat-map of the global cosines, the noise floor on its colour bar, a frame round the cells that reach theirs."""
    cosines = cosine_matrix(view)
    if len(view.runs) < 2 or np.isnan(cosines[~np.eye(len(cosines), dtype=bool)]).all():
        return None

    def draw(canvas: Canvas) -> None:
        grid = canvas.add_gridspec(1, 2, width_ratios=(24, 1))
        axes, bar = canvas.add_subplot(grid[0]), canvas.add_subplot(grid[1])
        _heat_map(axes, cosines, view)
        _colour_bar(bar, _lowest(cosines), view.floor)

    svg = inline_svg(
        "cosines",
        "Cosine between the weight updates of every pair of runs",
        _height([label_of(info, view) for info in view.runs]),
        draw,
    )
    measured = any(view.floor_of(kind, "cosine") for kind in KINDS)
    note = (
        f"<dW, dW'> / (|dW| |dW'|) over all entries of {view.modules} shared modules, one value a pair. "
        + floor_note(view)
        + (" Framed cells are at their floor or are the floor itself." if measured else "")
        + (" Of so many runs the numbers below stand for the names beside." if len(view.runs) > MOST_LABELLED else "")
        + (" zero: an update of zero, which has no direction." if view.zero else "")
    )
    return Picture("cosines", "Do the weights move the same way?", svg, note, "cosines")


def _height(names: Sequence[str]) -> float:
    """Inches: of few runs what makes room for a number in each cell, of many what keeps the cells square."""
    if len(names) <= MOST_LABELLED:
        return 0.9 + 0.46 * len(names)
    labels = 0.6 * _label_size(len(names)) * (3 + max(map(len, names))) / 72  # a letter is about .6 of its height wide
    return max(2.0, 0.35 + WIDTH - labels - 0.9)


def _label_size(runs: int) -> float:
    """Points: of many runs what a row's height leaves."""
    return 9.0 if runs <= MOST_LABELLED else min(7.0, 190 / runs)


def _lowest(cosines: np.ndarray) -> float:
    return min(0.0, float(np.nanmin(cosines)))


def _heat_map(axes: Axes, cosines: np.ndarray, view: Geometry) -> None:
    names = [label_of(info, view) for info in view.runs]
    crowded = len(names) > MOST_LABELLED
    for (i, j), cosine in np.ndenumerate(cosines):
        framed = i != j and view.standing(view.runs[i], view.runs[j]) in REACHED
        text = "1" if i == j else number(cosine, 3 if len(names) <= 8 else 2).replace("0.", ".", 1)
        if np.isnan(cosine):
            text = "zero" if view.missing(view.runs[i].run, view.runs[j].run, "cosine") == ZERO else "n/m"
        _cell(axes, (i, j), cosine, "" if crowded else text, _lowest(cosines), 0.6 if crowded else 1.6, framed)
    axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5))
    places = range(len(names))
    if crowded:  # a name once is enough: its number stands for it
        size, every = _label_size(len(names)), -(-len(names) // 20)
        axes.set_xticks(places[::every], [str(place + 1) for place in places[::every]])
        axes.set_yticks(places, [f"{name} {place + 1}" for place, name in enumerate(names)])
        axes.tick_params(length=0, labelsize=size)
        axes.set_aspect("equal", anchor="NW")
    else:
        axes.set_xticks(places, names, rotation=40, ha="right", va="top", rotation_mode="anchor")
        axes.set_yticks(places, names)
        axes.tick_params(length=0, labelsize=9)
    axes.spines[:].set_visible(False)


def _cell(axes: Axes, at: tuple[int, ...], cosine: float, text: str, low: float, frame: float, framed: bool) -> None:
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    i, j = at
    if np.isnan(cosine):
        axes.add_patch(Rectangle((j - 0.48, i - 0.48), 0.96, 0.96, fill=False, edgecolor=FAINT, linestyle=":"))
        axes.text(j, i, text, ha="center", va="center", size=8)
        return
    shade = (cosine - low) / (1 - low)
    contrast = "#000000" if shade > 0.55 else "#ffffff"
    fill = colormaps["cividis"](shade)
    axes.add_patch(Rectangle((j - 0.48, i - 0.48), 0.96, 0.96, facecolor=fill, linewidth=0))
    axes.text(j, i, text, ha="center", va="center", size=8.5, color=contrast)
    if framed:
        axes.add_patch(Rectangle((j - 0.45, i - 0.45), 0.9, 0.9, fill=False, edgecolor=contrast, linewidth=frame))


def _colour_bar(axes: Axes, low: float, floor: float | None) -> None:
    from matplotlib import colormaps

    edges = np.linspace(low, 1, 65)
    centres = (edges[:-1] + edges[1:]) / 2
    axes.barh(centres, 1, height=np.diff(edges) * 1.05, color=colormaps["cividis"]((centres - low) / (1 - low)))
    axes.set(xlim=(0, 1), ylim=(low, 1), xticks=[])
    axes.yaxis.tick_right()
    axes.spines[:].set_visible(False)
    ticks = [tick for tick in (0.0, 0.25, 0.5, 0.75, 1.0) if floor is None or abs(tick - floor) > 0.08]
    labels = [f"{tick:g}" for tick in ticks]
    if floor is not None:
        axes.axhline(floor, color="#000000", linewidth=2)
        ticks, labels = [*ticks, floor], [*labels, f"{number(floor, 3)} floor"]
    axes.set_yticks(ticks, labels)
