"""What every chart's Vega-Lite specification is made of: inks that follow the page, fonts, axes, panels."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.reporting.charts.svg import WIDTH, writable

Spec = dict[str, Any]

INK, FAINT, MUTED, RULE, PAPER = "currentColor", "var(--faint)", "var(--muted)", "var(--rule)", "var(--paper)"
"""Colours of the page, light or dark: the charts are SVG inside it."""

PALETTE = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#6611ff", "#5577ff", "#bb1133", "#77bb66",
    "#665566", "#484ebe", "#619dff",
)  # fmt: skip
"""Okabe and Ito (2008) without black and yellow, which vanish on one of the two backgrounds; then seven that lie
farther from these and from each other, seen with and without red-green blindness, than the nearest two of theirs."""

MARKERS = (
    "circle", "square", "diamond", "triangle-up", "triangle-down", "cross",
    "M-1-.6L-.6-1L0-.4L.6-1L1-.6L.4,0L1,.6L.6,1L0,.4L-.6,1L-1,.6L-.4,0Z",
    "M0-1L.24-.33L.95-.31L.38,.13L.59,.81L0,.42L-.59,.81L-.38,.13L-.95-.31L-.24-.33Z",
    "triangle-left", "triangle-right", "M0-1L.87-.5L.87,.5L0,1L-.87,.5L-.87-.5Z",
    "M0-1L.95-.31L.59,.81L-.59,.81L-.95-.31Z", "M-1,.7L-.5-.7L.5-.7L1,.7Z",
)  # fmt: skip
"""A run's shape, so that none is known by its colour alone: those of Vega, then an x, a star, a hexagon, a pentagon, a
trapezium."""

CROSS = "M-.8-.8L.8.8M.8-.8L-.8.8"


def config(size: int, titles: int) -> Spec:
    """Fonts of ``size``, of axes' titles of ``titles``; inks of the page."""
    words = {"labelColor": INK, "titleColor": INK, "labelFontSize": size, "titleFontSize": titles,
             "titleFontWeight": "normal"}  # fmt: skip
    return {
        "font": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif",
        "background": None,
        "view": {"stroke": None},
        "axis": {**words, "domainColor": FAINT, "tickColor": FAINT, "gridColor": RULE},
        "legend": {**words, "labelLimit": 0, "symbolStrokeWidth": 2, "symbolSize": 300, "symbolStrokeColor": INK},
    }


def _still() -> Spec:
    base = config(9, 10)
    return {
        **base,
        "font": "Liberation Sans, Arial, Helvetica, sans-serif",
        "aria": False,
        "padding": 3,
        "axis": {**base["axis"], "labelFlush": False, "labelOverlap": False, "labelLimit": 200, "labelPadding": 3,
                 "tickSize": 3},
        "legend": {**base["legend"], "symbolSize": 36, "symbolStrokeWidth": 1.4, "symbolStrokeColor": None,
                   "columnPadding": 12, "rowPadding": 1, "offset": 6},
        "title": {"color": INK, "fontSize": 10, "fontWeight": "normal", "anchor": "start", "offset": 4},
        "concat": {"spacing": 12},
    }  # fmt: skip


def figure(view: Spec, height: float | Spec) -> Spec:
    """One view as wide as every drawing, ``height`` units between its axes."""
    fit = {"type": "fit-x", "contains": "padding"}
    return {"width": WIDTH, "height": height, "autosize": fit, "config": _still(), **view}


def panels(views: Sequence[Spec], columns: int = 1, **more: Any) -> Spec:
    """Views beside and below each other, each with a width of its own (`room` says how much there is)."""
    return {"concat": list(views), "columns": columns, "config": _still(), **more}


def room(labels: Sequence[str], size: float = 9, beside: float = 12) -> float:
    """Units that are left of the width by the labels of a y axis and what else stands ``beside`` the plot."""
    return max(80.0, WIDTH - 0.6 * size * max(map(len, labels), default=0) - beside)


def names(labels: Sequence[str]) -> str:
    """The expression that names what an axis or a legend has by number: a name such as ``__proto__`` breaks Vega's
    look-ups by text. One text of all: Vega takes a text that is ``constructor`` for its own, and Vega-Lite what looks
    like ``datum.label``; a line separator would end it."""
    every = json.dumps("".join(f"{writable(label)}\x1f" for label in labels))
    return f'split({every}, "\\u001f")[datum.value]'.replace("datum.label", r"datum\u002elabel")


def heading(text: str, size: int = 10) -> Spec:
    """A panel's title that is a name; the space keeps it apart from Vega's own, as in `names`."""
    return {"text": f"{text} ", "fontSize": size}


def quantity(
    field: str, title: str | None = None, domain: Sequence[float] | None = None, pad: float = 0, **axis: Any
) -> Spec:
    """A number's place on an axis: from its lowest to its highest value, or in ``domain``; ``pad`` units beyond."""
    scale: Spec = {"zero": False, "nice": False, "padding": pad}
    if domain is not None:
        scale |= {"domain": list(domain), "padding": 0}
    return {"field": field, "type": "quantitative", "scale": scale, "axis": {"title": title, "grid": False, **axis}}


def straight(mark: Mapping[str, Any], **encoding: Any) -> Spec:
    """One mark at given values of axes (`at`), whatever the rows have."""
    return {"data": {"values": [{}]}, "mark": dict(mark), "encoding": encoding}


def at(place: Spec, value: float) -> Spec:
    """One ``value`` on the axis of ``place``."""
    return {**{name: part for name, part in place.items() if name != "field"}, "datum": value}


def log_axis(field: str, values: Sequence[float], title: str, **axis: Any) -> Spec:
    """A number's place on a log axis, with 1, 2 and 5 of each decade named where there are few."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    digits = (1, 2, 5) if high - low <= 2 else (1,)
    every = max(1, -(-(high - low) // 8))
    ticks = [float(f"{digit}e{power}") for power in range(low, high + 1, every) for digit in digits]
    place = quantity(field, title, pad=8, values=ticks, format="~g", **axis)
    return {**place, "scale": {**place["scale"], "type": "log"}}


def rows_axis(labels: Sequence[str]) -> Spec:
    """The y axis of a list: row ``place`` at its number from above, dots of one row a little above and below it."""
    return quantity("place", None, (len(labels) - 0.4, -0.6), values=list(range(len(labels))), labelExpr=names(labels),
                    ticks=False)  # fmt: skip


def given(field: str) -> Spec:
    """A mark's colour or shape that stands in the rows."""
    return {"expr": f"datum.{field}"}


def layer(mark: Mapping[str, Any], when: str = "", /, **encoding: Any) -> Spec:
    """Marks for the rows of which the expression ``when`` is true."""
    chosen = {"transform": [{"filter": when}]} if when else {}
    return {**chosen, "mark": dict(mark), "encoding": encoding}


def unnamed(view: Spec) -> Spec:
    """A panel above another one of the same x axis, which names it."""
    bare = {"title": None, "labels": False}
    xs = [{**one["encoding"]["x"], "axis": {**one["encoding"]["x"]["axis"], **bare}} for one in view["layer"]]
    layers = [{**one, "encoding": {**one["encoding"], "x": x}} for one, x in zip(view["layer"], xs, strict=True)]
    return {**view, "layer": layers}
