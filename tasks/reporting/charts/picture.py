"""What every figure shares: its frame of words, one colour a method, markers, short names, the legend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.core.contracts import RunInfo
from tasks.reporting.charts.svg import INK
from tasks.reporting.views.pairs import Geometry

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

PALETTE = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#6611ff", "#5577ff", "#bb1133", "#77bb66",
    "#665566",
)  # fmt: skip
"""Okabe and Ito (2008) without black and yellow, which vanish on one of the two backgrounds; then five that lie farther
from these and from each other, seen with and without red-green blindness, than the nearest two of theirs."""

MARKERS = "osD^vPX*<>hp"

MOST_LINES = 9
"""Lines that a panel can show apart; of more, the extremes are drawn in colour and the others thin and grey."""

KNOWN = ("sft", "rft", "dft", "rift", "offline_grpo", "dpo", "ipo", "simpo", "kto", "asft", "online_grpo")
_LONGEST = 22
_MOST_MARKS = 16


@dataclass(frozen=True)
class Picture:
    """A figure of the report. ``note``: how it was computed and over what n; ``table``: the key of its numbers."""

    key: str
    title: str
    svg: str
    note: str
    table: str


def colour_of(info: RunInfo, view: Geometry) -> str:
    """One colour a method, the same in every figure; ink for the base and the teacher."""
    if info not in view.runs:
        return INK
    present = dict.fromkeys(run.method for run in view.runs)
    # A study's methods keep their colours from report to report; adapters of others have methods of their own.
    methods = dict.fromkeys([*(KNOWN if present.keys() & set(KNOWN) else ()), *present])
    return PALETTE[list(methods).index(info.method) % len(PALETTE)]


def line_style(info: RunInfo, view: Geometry, points: int) -> dict[str, Any]:
    """How a run's line looks: colour, marker (on some of many points) and its name in the legend."""
    return {
        "color": colour_of(info, view),
        "marker": MARKERS[view.runs.index(info) % len(MARKERS)],
        "markersize": 4.5,
        "markevery": -(-points // _MOST_MARKS),
        "linewidth": 1.4,
        "label": label_of(info, view),
    }


def lone(points: int) -> dict[str, Any]:
    """How a line without markers shows a single point, which would else not be seen."""
    return {"marker": "o", "markersize": 4.5} if points == 1 else {}


def label_of(info: RunInfo, view: Geometry) -> str:
    """A name that fits beside an axis: of a long one the middle is left out, and a number tells it from its like."""
    label = short(info.run)
    if info in view.runs and any(other != info and short(other.run) == label for other in view.runs):
        return f"{view.runs.index(info) + 1}: {label}"
    return label


def short(name: str, most: int = _LONGEST) -> str:
    """``name``, of one longer than ``most`` characters its beginning and its end."""
    keep = most // 2
    return name if len(name) <= most else f"{name[: keep - 1]}…{name[-keep:]}"


def apart(runs: Sequence[RunInfo], view: Geometry) -> list[RunInfo]:
    """The runs that are drawn in colour: all, or the reference with the nearest and the farthest to it."""
    if len(runs) <= MOST_LINES or view.reference is None:
        return list(runs[:MOST_LINES])
    reference = view.reference
    others = [info for info in runs if info != reference]
    others.sort(key=lambda info: -(view.cosine(info.run, reference.run) or -2.0))
    half = (MOST_LINES - 1) // 2
    chosen = [*others[:half], *others[-half:]]
    return [info for info in runs if info == reference or info in chosen]


def crowd_note(total: int, shown: int) -> str:
    """Says which lines have a name, where not all have."""
    return "" if shown == total else f" In colour: the nearest and the farthest; the other {total - shown} in grey."


def legend(canvas: Canvas, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = 3 if max(map(len, labels), default=0) <= 20 else 2
    canvas.legend(handles, labels, loc="outside upper left", ncols=columns, handlelength=2, columnspacing=1.2)
