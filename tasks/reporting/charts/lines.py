"""Lines over an axis, one a run: colour and shape of a run, black broken lines of noise floors, grey of a crowd."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tasks.core.results import RunInfo
from tasks.reporting.charts.picture import apart, colour_of, label_of
from tasks.reporting.charts.style import FAINT, INK, MARKERS, Spec, layer, names
from tasks.reporting.charts.svg import WIDTH
from tasks.reporting.views.floors import KINDS
from tasks.reporting.views.pairs import Geometry

Points = Sequence[tuple[float, float | None]]

SOLID = (1, 0)
DASHES = {"order": (5, 3), "initialisation": (1, 2)}
"""Kind of noise floor -> its line."""

_MOST_MARKS = 16


@dataclass(frozen=True)
class Line:
    """Points with None where there is a gap; without a ``name`` one of a crowd. Shape "stroke": no markers."""

    points: Points
    name: str = ""
    colour: str = FAINT
    shape: str = "stroke"
    dash: tuple[int, int] = SOLID
    dots: Points = ()
    """Markers of their own, where the line goes through their means."""


def run_lines(points: Mapping[str, Points], view: Geometry, floors: bool = True) -> list[Line]:
    """A line for each run that has points, in the study's order.

    ``floors``: a replicate of the reference is a noise floor, black and broken; else it keeps its colour.
    """
    runs = [info for info in view.runs if info.run in points]
    shown = apart(runs, view)
    return [_line(info, points[info.run], view, info in shown, floors) for info in runs]


def _line(info: RunInfo, points: Points, view: Geometry, shown: bool, floors: bool) -> Line:
    kind = view.replicate(info, view.reference) if view.reference else None
    name = label_of(info, view)
    if kind and floors:
        return Line(points, f"{name} (floor: {KINDS[kind]})", INK, "stroke", DASHES[kind])
    if not shown:
        return Line(points)
    shape = MARKERS[view.runs.index(info) % len(MARKERS)]
    return Line(points, name, colour_of(info, view), shape, DASHES["order"] if kind else SOLID)


def crowd_note(lines: Sequence[Line]) -> str:
    """Says which lines have a name, where not all have."""
    grey = sum(not line.name for line in lines)
    return f" In colour: the nearest and the farthest; the other {grey} in grey." if grey else ""


def lines_views(groups: Sequence[Sequence[Line]], x: Spec, y: Spec, legend: bool = True) -> list[Spec]:
    """For each group the layers of its lines over the fields ``x`` and ``y``; one legend of all names above them."""
    named = list(dict.fromkeys(_look(line) for lines in groups for line in lines if line.name))
    labels = [name for name, *_ in named]
    columns = max(1, min(3, int((WIDTH - 20) // (4.2 * max(map(len, labels), default=0) + 22))))
    box = {"orient": "top", "title": None, "columns": columns, "labelExpr": names(labels)} if legend else None

    def look(values: Sequence[object]) -> Spec:
        scale = {"domain": list(range(len(named))), "range": values}
        return {"field": "line", "type": "nominal", "scale": scale, "legend": box}

    colour, shape = look([colour for _, colour, *_ in named]), look([shape for _, _, shape, _ in named])
    dash, of = look([list(dash) for *_, dash in named]), {"field": "line", "type": "nominal"}
    thin = {"type": "line", "strokeWidth": 0.6, "opacity": 0.8, "color": FAINT}
    points = {"type": "point", "filled": True, "size": 20, "opacity": 1}
    layers = [
        layer(thin, "datum.line < 0", x=x, y=y, detail=of),
        layer(
            {"type": "line", "strokeWidth": 1.4},
            "datum.line >= 0 && !datum.dot",
            x=x,
            y=y,
            color=colour,
            strokeDash=dash,
        ),
        layer(points, "datum.marked && isValid(datum.y)", x=x, y=y, color=colour, shape=shape),
    ]
    return [{"data": {"values": _rows(lines, named)}, "layer": layers} for lines in groups]


_Look = tuple[str, str, str, tuple[int, int]]


def _look(line: Line) -> _Look:
    """How a line is known. One without markers shows a single point, which would else not be seen."""
    lone = len(line.points) == 1 and line.shape == "stroke"
    return line.name, line.colour, "circle" if lone else line.shape, line.dash


def _rows(lines: Sequence[Line], named: Sequence[_Look]) -> list[Spec]:
    """A point a row: the number of its line (below 0 in a crowd), x, y (None in a gap), whether it has a marker and
    whether it is nothing but one."""
    return [
        {
            "line": named.index(_look(line)) if line.name else -1 - place,
            "x": at,
            "y": value if value is not None and math.isfinite(value) else None,
            "marked": dot or (_marked(line) and step % -(-len(points) // _MOST_MARKS) == 0),
            "dot": dot,
        }
        for place, line in enumerate(lines)
        for dot, points in ((False, line.points), (True, line.dots))
        for step, (at, value) in enumerate(points)
    ]


def _marked(line: Line) -> bool:
    return bool(line.name) and not line.dots and _look(line)[2] != "stroke"


def few(ticks: Sequence[int]) -> list[int]:
    """At most twelve of ``ticks``, evenly."""
    return list(ticks[:: max(1, -(-len(ticks) // 12))])
