"""The Vega-Lite specifications of the charts that answer to a reader. Their rows are put in by explore.js.

Colours are CSS where they must follow the page (``currentColor``, ``var(--faint)``): the charts are drawn as SVG.
"""

from __future__ import annotations

from typing import Any

from tasks.reporting.charts.style import FAINT, INK, MUTED, PALETTE, Spec, config, layer, quantity

PAIR, NULL = "this pair", "null (random)"
FLOORS = ("floor: data order", "floor: initialisation")

_FIRST = "var(--first)"
"""The palette's blue, its light one on a dark page."""


def _chart(height: int, layers: list[Spec], **params: Any) -> Spec:
    return {
        "width": "container",
        "height": height,
        "autosize": {"type": "fit", "contains": "padding"},
        "config": config(12, 12),
        "data": {"name": "rows"},
        "params": [{"name": name, "value": value} for name, value in params.items()],
        "layer": layers,
    }


def _nominal(field: str, **more: Any) -> Spec:
    return {"field": field, "type": "nominal", **more}


def _tooltip(**titles: str) -> list[Spec]:
    return [_nominal(field, title=title) for field, title in titles.items()]


def profile_chart() -> Spec:
    """Rows: layer, value, kind, shown. The parameter ``layer`` is the one that is marked. explore.js sets the axes."""
    legend = {"orient": "top", "title": None, "columns": 2, "symbolType": "stroke"}

    def look(*values: object) -> Spec:
        return _nominal("kind", legend=legend, scale={"domain": [PAIR, *FLOORS, NULL], "range": values})

    x = quantity("layer", "Layer (0 = nearest the input)", pad=12, format="d")
    y = {"field": "value", "type": "quantitative"}
    of_pair = f"datum.kind === '{PAIR}'"
    chosen = {"type": "rule", "color": FAINT, "strokeWidth": 8, "opacity": 0.45}
    points = {"type": "point", "filled": True, "size": 50, "color": _FIRST, "opacity": 1}
    layers = [
        layer(chosen, f"datum.layer === layer && {of_pair}", x=x),
        layer({"type": "line", "strokeWidth": 2}, x=x, y=y, color=look(_FIRST, INK, INK, MUTED),
              strokeDash=look([1, 0], [6, 4], [1, 3], [3, 3])),
        layer(points, of_pair, x=x, y=y),
        # Wide and unseen: what the pointer finds.
        layer({"type": "point", "size": 500, "opacity": 0}, x=x, y=y,
              tooltip=_tooltip(kind="Line", layer="Layer", shown="Value")),
    ]  # fmt: skip
    return _chart(280, layers, layer=-1)


def heat_map_chart() -> Spec:
    """Rows: i, j, a, b, value, text, ink, where, shown, spoken. Parameters ``first``, ``second``: the pair framed.

    ``labels``: the runs' names; axes go by number, since a name such as ``__proto__`` breaks Vega's look-ups.
    explore.js sets the order of the axes, the colour scale's domain and the height.
    """

    def axis(field: str, **more: Any) -> Spec:
        words = {"title": None, "domain": False, "ticks": False, "labelLimit": 150, "labelExpr": "labels[datum.value]"}
        return _nominal(field, axis={**words, **more}, scale={"padding": 0.04})

    bar = {"orient": "bottom", "direction": "horizontal", "gradientLength": 180, "gradientThickness": 10,
           "titleLimit": 0, "title": None, "tickCount": 4}  # fmt: skip
    colour = {"field": "value", "type": "quantitative", "scale": {"scheme": "cividis"}, "legend": bar}
    # The number is what the pointer finds in the middle of its cell.
    cell = {"y": axis("i"), "x": axis("j", labelAngle=-40),
            "tooltip": _tooltip(a="Run", b="Against", where="Where", shown="Value")}  # fmt: skip
    dotted = {"type": "rect", "fill": "transparent", "stroke": FAINT, "strokeDash": [1, 3], "cursor": "pointer"}
    text = {"type": "text", "fontSize": 11, "cursor": "pointer", "color": {"expr": "datum.ink"}}
    frame = {"type": "rect", "filled": False, "stroke": PALETTE[4], "strokeWidth": 3}
    chosen = "(datum.i === first && datum.j === second) || (datum.i === second && datum.j === first)"
    layers = [
        layer({"type": "rect", "cursor": "pointer"}, "isValid(datum.value)", **cell, color=colour,
              description=_nominal("spoken")),
        layer(dotted, "!isValid(datum.value)", **cell),
        layer(text, **cell, text=_nominal("text")),
        layer(frame, chosen, **cell),
    ]  # fmt: skip
    return _chart(300, layers, first=-1, second=-1, labels=[])
