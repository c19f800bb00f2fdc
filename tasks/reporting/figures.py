"""The report's static figures, each with a sentence on how it was computed and over what n."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tasks.contracts import RunInfo
from tasks.reporting.findings import floor_note
from tasks.reporting.formats import benchmark_name, number, percent
from tasks.reporting.join import StudyTables, base_of, benchmarks, ordered_runs, score, trained_runs, versus
from tasks.reporting.pairs import AT_FLOOR, IS_FLOOR, Geometry, cosine_matrix, is_twin, layer_profiles
from tasks.reporting.study_tables import losses
from tasks.reporting.svg import FAINT, INK, PAPER, inline_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")
"""Okabe and Ito (2008) without black and yellow, which vanish on one of the two backgrounds."""

MARKERS = "osD^vPX*"

MOST_LABELLED = 11
"""Runs above which the heat-map's cells have no room for numbers; its table has them."""

_KNOWN = ("sft", "rft", "dft", "rift", "offline_grpo", "dpo")


@dataclass(frozen=True)
class Picture:
    """A figure of the report. ``note``: how it was computed and over what n; ``table``: the key of its numbers."""

    key: str
    title: str
    svg: str
    note: str
    table: str


def pictures(tables: StudyTables, view: Geometry) -> list[Picture]:
    """The figures that these tables allow; one whose numbers were not measured is left out."""
    drawers: tuple[Callable[[StudyTables, Geometry], Picture | None], ...] = (
        accuracy_picture,
        cosine_picture,
        layer_picture,
        training_picture,
    )
    return [picture for drawer in drawers if (picture := drawer(tables, view)) is not None]


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
        colour = _colour(info, view)
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


def cosine_picture(tables: StudyTables, view: Geometry) -> Picture | None:
    """Heat-map of the global cosines, the noise floor on the colour bar and a ring on the cells that reach it."""
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
        min(0.9 + 0.46 * len(view.runs), 5.6),
        draw,
    )
    note = (
        f"<dW, dW'> / (|dW| |dW'|) over all entries of {view.modules} shared modules, one value a pair. "
        + floor_note(view)
        + (" Framed cells are at the floor or are the floor itself." if view.floor is not None else "")
    )
    return Picture("cosines", "Do the weights move the same way?", svg, note, "cosines")


def _lowest(cosines: np.ndarray) -> float:
    return min(0.0, float(np.nanmin(cosines)))


def _heat_map(axes: Axes, cosines: np.ndarray, view: Geometry) -> None:
    names = [info.run for info in view.runs]
    crowded = len(names) > MOST_LABELLED
    for (i, j), cosine in np.ndenumerate(cosines):
        framed = i != j and view.standing(view.runs[i], view.runs[j]) in (AT_FLOOR, IS_FLOOR)
        text = "1" if i == j else number(cosine, 3 if len(names) <= 8 else 2).replace("0.", ".", 1)
        _cell(axes, (i, j), cosine, "" if crowded else text, _lowest(cosines), framed)
    axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5))
    slant, height = (90, "center") if crowded else (40, "top")
    axes.set_xticks(range(len(names)), names, rotation=slant, ha="right", va=height, rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0, labelsize=7 if crowded else 9)
    axes.spines[:].set_visible(False)


def _cell(axes: Axes, at: tuple[int, ...], cosine: float, text: str, low: float, framed: bool) -> None:
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    i, j = at
    if np.isnan(cosine):
        axes.add_patch(Rectangle((j - 0.48, i - 0.48), 0.96, 0.96, fill=False, edgecolor=FAINT, linestyle=":"))
        axes.text(j, i, "n/m" if text else "", ha="center", va="center", size=8)
        return
    shade = (cosine - low) / (1 - low)
    contrast = "#000000" if shade > 0.55 else "#ffffff"
    fill = colormaps["cividis"](shade)
    axes.add_patch(Rectangle((j - 0.48, i - 0.48), 0.96, 0.96, facecolor=fill, linewidth=0))
    axes.text(j, i, text, ha="center", va="center", size=8.5, color=contrast)
    if framed:
        axes.add_patch(Rectangle((j - 0.45, i - 0.45), 0.9, 0.9, fill=False, edgecolor=contrast, linewidth=1.6))


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


def layer_picture(tables: StudyTables, view: Geometry) -> Picture | None:
    """Cosine to the reference in every layer; the twin's line is the noise floor."""
    profiles = layer_profiles(tables, view)
    if not profiles or view.reference is None:
        return None
    reference = view.reference

    def draw(canvas: Canvas) -> None:
        axes = canvas.subplots()
        for info in view.runs:
            if info.run in profiles:
                twin = is_twin(info, reference)
                colour, dash = (INK, "--") if twin else (_colour(info, view), "-")
                label = f"{info.run} (noise floor)" if twin else info.run
                shape = _marker(info, view)
                axes.plot(*profiles[info.run], color=colour, linestyle=dash, marker=shape, markersize=5, label=label)
        layers = sorted({layer for steps, _ in profiles.values() for layer in steps})
        axes.set_xticks(layers[:: -(-len(layers) // 12)])
        axes.set(xlabel="Layer (0 = nearest the input)", ylabel=f"Cosine to {reference.run}")
        axes.set_ylim(top=1.02)
        axes.grid(axis="y", alpha=0.5)
        _legend(canvas, axes)

    svg = inline_svg("layers", f"Cosine to {reference.run} over the layers", 3.5, draw)
    per_layer = view.modules // max(len(next(iter(profiles.values()))[0]), 1)
    note = f"In each layer the mean of the cosines of its {per_layer} modules. {floor_note(view)}"
    return Picture("layers", f"Where in the network do they agree with {reference.run}?", svg, note, "pairs")


def training_picture(tables: StudyTables, view: Geometry) -> Picture | None:
    """Small multiples: every method has a loss of its own, so each panel has its own height."""
    curves = [(info, *losses(tables, info.run)) for info in trained_runs(tables)]
    curves = [curve for curve in curves if curve[1]]
    if not curves:
        return None
    rows = -(-len(curves) // 2)

    def draw(canvas: Canvas) -> None:
        panels = canvas.subplots(rows, 2, sharex=True, squeeze=False).ravel()
        for axes, (info, steps, values) in zip(panels, curves, strict=False):
            axes.plot(steps, values, color=_colour(info, view), linewidth=1.5)
            axes.set_title(info.run, loc="left")
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
        "the heights of two panels cannot be compared."
    )
    return Picture("training", "Did training settle?", svg, note, "training")


def _colour(info: RunInfo, view: Geometry) -> str:
    """One colour a method, the same in every figure; ink for the base and the teacher."""
    if info not in view.runs:
        return INK
    methods = dict.fromkeys([*_KNOWN, *(run.method for run in view.runs)])
    return PALETTE[list(methods).index(info.method) % len(PALETTE)]


def _marker(info: RunInfo, view: Geometry) -> str:
    return MARKERS[view.runs.index(info) % len(MARKERS)]


def _legend(canvas: Canvas, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside upper left", ncols=3, handlelength=2, columnspacing=1.2)
