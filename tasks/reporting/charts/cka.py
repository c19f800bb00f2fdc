"""CKA over the layers: every run against the base and against the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.core.contracts import RunInfo
from tasks.reporting.charts.picture import Picture, apart, crowd_note, label_of, legend, line_style, lone
from tasks.reporting.charts.svg import FAINT, INK, inline_svg
from tasks.reporting.views.floors import KINDS
from tasks.reporting.views.join import StudyTables, base_of
from tasks.reporting.views.pairs import Geometry
from tasks.reporting.views.similarity import POOLINGS, Similarity, similarity_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

_DASHES = {"order": "--", "initialisation": ":"}


def cka_picture(tables: StudyTables, view: Geometry) -> Picture | None:
    """Two panels of debiased CKA; a layer without a value is a gap."""
    found = similarity_of(tables.cka)
    if found is None:
        return None
    base = base_of(tables).run
    others = [base, *([view.reference.run] if view.reference else [])]
    panels = {other: runs for other in others if (runs := _runs(found, view, other))}
    if not panels:
        return None
    names = {base: base, **{info.run: label_of(info, view) for info in view.runs}}

    def draw(canvas: Canvas) -> None:
        every = canvas.subplots(len(panels), 1, sharex=True, squeeze=False).ravel()
        for axes, (other, runs) in zip(every, panels.items(), strict=True):
            _lines(axes, runs, found, view, other)
            axes.set_title(f"Against {names[other]}", loc="left")
            axes.set_ylabel("CKA, debiased")
        every[-1].set_xlabel("Layer (0 = the embedding)")
        legend(canvas, every[0])

    svg = inline_svg("cka", "CKA of hidden states over the layers", 0.9 + 1.9 * len(panels), draw)
    first = next(iter(panels.values()))
    note = (
        f"Debiased linear CKA of the hidden states at {POOLINGS.get(found.pooling, found.pooling)}, {found.rows} rows; "
        f"1 = equal up to rotation and scale. Black broken line: noise floor. The table has the biased values and the "
        f"reasons for gaps.{crowd_note(len(first), len(apart(first, view)))}"
    )
    return Picture("cka", "Do they represent the problems alike?", svg, note, "cka")


def _runs(found: Similarity, view: Geometry, other: str) -> list[RunInfo]:
    return [info for info in view.runs if info.run != other and found.profile(info.run, other)]


def _lines(axes: Axes, runs: list[RunInfo], found: Similarity, view: Geometry, other: str) -> None:
    shown = apart(runs, view)
    for info in runs:
        layers = list(found.layers)
        values = [found.value(info.run, other, layer) for layer in layers]
        heights = [float("nan") if value is None else value for value in values]
        twin = view.twin(info, view.reference) if view.reference else None
        if twin is not None:
            name = f"{label_of(info, view)} (floor: {KINDS[twin]})"
            ink = {
                "color": INK,
                "linestyle": _DASHES[twin],
                "linewidth": 1.4,
                **lone(len(found.profile(info.run, other))),
            }
            axes.plot(layers, heights, label=name, **ink)
        elif info in shown:
            axes.plot(layers, heights, **line_style(info, view, len(layers)))
        else:
            axes.plot(layers, heights, color=FAINT, linewidth=0.6, alpha=0.8)
    axes.set_xticks(found.layers[:: -(-len(found.layers) // 12)])
    axes.grid(axis="y", alpha=0.5)
