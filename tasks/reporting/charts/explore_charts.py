"""The Vega-Lite specifications of the charts that answer to a reader. Their rows are put in by explore.js.

Colours are CSS where they must follow the page (``currentColor``, ``var(--faint)``): the charts are drawn as SVG.
"""

from __future__ import annotations

from typing import Any

from tasks.reporting.charts.style import FAINT, INK, MUTED, PALETTE, Spec, config

PAIR, NULL = "this pair", "null (random)"
FLOORS = ("floor: data order", "floor: initialisation")
AS_TRAINED, MATCHED = "as trained", "scaled to one norm"

_FIRST = "var(--first)"
"""The palette's blue, its light one on a dark page."""


def _chart(height: int, layers: list[Spec], params: dict[str, Any] | None = None, **more: Any) -> Spec:
    return {
        "width": "container",
        "height": height,
        "autosize": {"type": "fit", "contains": "padding"},
        "config": config(12, 12),
        "data": {"name": "rows"},
        "params": [{"name": name, "value": value} for name, value in (params or {}).items()],
        "layer": layers,
        **more,
    }


def profile_chart() -> Spec:
    """Rows: layer, value, kind, shown. The parameter ``layer`` is the one that is marked. explore.js sets the axes."""
    kinds = [PAIR, *FLOORS, NULL]
    strokes: Spec = {
        "color": {
            "field": "kind",
            "type": "nominal",
            "scale": {"domain": kinds, "range": [_FIRST, INK, INK, MUTED]},
            "legend": {"orient": "top", "title": None, "columns": 2, "symbolType": "stroke"},
        },
        "strokeDash": {
            "field": "kind",
            "type": "nominal",
            "scale": {"domain": kinds, "range": [[1, 0], [6, 4], [1, 3], [3, 3]]},
        },
    }
    x = {
        "field": "layer",
        "type": "quantitative",
        "scale": {"zero": False, "nice": False, "padding": 12},
        "axis": {"title": "Layer (0 = nearest the input)", "format": "d", "grid": False},
    }
    y = {"field": "value", "type": "quantitative"}
    tooltip = [
        {"field": "kind", "type": "nominal", "title": "Line"},
        {"field": "layer", "type": "quantitative", "title": "Layer"},
        {"field": "shown", "type": "nominal", "title": "Value"},
    ]
    mark = {"type": "rule", "color": FAINT, "strokeWidth": 8, "opacity": 0.45}
    layers: list[Spec] = [
        {
            "transform": [{"filter": f"datum.layer === layer && datum.kind === '{PAIR}'"}],
            "mark": mark,
            "encoding": {"x": x},
        },
        {"mark": {"type": "line", "strokeWidth": 2}, "encoding": {"x": x, "y": y, **strokes}},
        {
            "transform": [{"filter": f"datum.kind === '{PAIR}'"}],
            "mark": {"type": "point", "filled": True, "size": 50, "color": _FIRST, "opacity": 1},
            "encoding": {"x": x, "y": y},
        },
        # Wide and unseen: what the pointer finds.
        {"mark": {"type": "point", "size": 500, "opacity": 0}, "encoding": {"x": x, "y": y, "tooltip": tooltip}},
    ]
    return _chart(280, layers, {"layer": -1})


def heat_map_chart() -> Spec:
    """Rows: i, j, a, b, value, text, ink, where, shown, spoken. Parameters ``first``, ``second``: the pair framed.

    ``labels``: the runs' names; axes go by number, since a name such as ``__proto__`` breaks Vega's look-ups.
    explore.js sets the order of the axes, the colour scale's domain and the height.
    """

    name = "labels[datum.value]"

    def axis(field: str, **more: Any) -> Spec:
        labels = {"title": None, "domain": False, "ticks": False, "labelLimit": 150, "labelExpr": name, **more}
        return {"field": field, "type": "nominal", "axis": labels, "scale": {"padding": 0.04}}

    spoken = {"field": "spoken", "type": "nominal"}
    place: Spec = {"y": axis("i"), "x": axis("j", labelAngle=-40)}
    tooltip = [
        {"field": "a", "type": "nominal", "title": "Run"},
        {"field": "b", "type": "nominal", "title": "Against"},
        {"field": "where", "type": "nominal", "title": "Where"},
        {"field": "shown", "type": "nominal", "title": "Value"},
    ]
    colour: Spec = {
        "field": "value",
        "type": "quantitative",
        "scale": {"scheme": "cividis"},
        "legend": {
            "orient": "bottom",
            "direction": "horizontal",
            "gradientLength": 180,
            "gradientThickness": 10,
            "titleLimit": 0,
            "title": None,
            "tickCount": 4,
        },
    }
    layers: list[Spec] = [
        {
            "transform": [{"filter": "isValid(datum.value)"}],
            "mark": {"type": "rect", "cursor": "pointer"},
            "encoding": {**place, "color": colour, "description": spoken},
        },
        {
            "transform": [{"filter": "!isValid(datum.value)"}],
            "mark": {
                "type": "rect",
                "fill": "transparent",
                "stroke": FAINT,
                "strokeDash": [1, 3],
                "cursor": "pointer",
            },
            "encoding": place,
        },
        {
            "mark": {"type": "text", "fontSize": 11, "cursor": "pointer", "color": {"expr": "datum.ink"}},
            "encoding": {**place, "text": {"field": "text", "type": "nominal"}},
        },
        {
            "transform": [
                {
                    "filter": "(datum.i === first && datum.j === second) || (datum.i === second && datum.j === first)",
                }
            ],
            "mark": {"type": "rect", "filled": False, "stroke": PALETTE[4], "strokeWidth": 3},
            "encoding": place,
        },
    ]
    # The number is what the pointer finds in the middle of its cell.
    for layer in layers:
        layer["encoding"] = {**layer["encoding"], "tooltip": tooltip}
    return _chart(300, layers, {"first": -1, "second": -1, "labels": []})


def path_chart() -> Spec:
    """Rows: alpha, value, kind, chord, shown. explore.js sets the title of the y axis."""
    kinds = [AS_TRAINED, MATCHED]
    x = {
        "field": "alpha",
        "type": "quantitative",
        "scale": {"domain": [0, 1]},
        "axis": {"title": "alpha", "values": [0, 0.5, 1], "grid": False},
    }
    y = {"type": "quantitative", "scale": {"zero": False}, "axis": {"tickCount": 5}}
    colour = {
        "field": "kind",
        "type": "nominal",
        "scale": {"domain": kinds, "range": [_FIRST, PALETTE[1]]},
        "legend": {"orient": "top", "title": None, "symbolType": "stroke", "symbolSize": 200},
    }
    dash = {"field": "kind", "type": "nominal", "scale": {"domain": kinds, "range": [[1, 0], [6, 3]]}}
    tooltip = [
        {"field": "kind", "type": "nominal", "title": "Updates"},
        {"field": "alpha", "type": "quantitative", "title": "alpha"},
        {"field": "shown", "type": "nominal", "title": "Value"},
    ]
    layers: list[Spec] = [
        {
            "mark": {"type": "line", "strokeDash": [2, 3], "strokeWidth": 1.2, "opacity": 0.9},
            "encoding": {"x": x, "y": {**y, "field": "chord"}, "color": colour},
        },
        {
            "mark": {"type": "line", "strokeWidth": 2, "point": {"size": 30}},
            "encoding": {"x": x, "y": {**y, "field": "value"}, "color": colour, "strokeDash": dash},
        },
        {
            "mark": {"type": "point", "size": 400, "opacity": 0},
            "encoding": {"x": x, "y": {**y, "field": "value"}, "tooltip": tooltip},
        },
    ]
    return _chart(220, layers)


def training_chart() -> Spec:
    """Rows: step, value, run (its number), name, shown. The parameter ``labels`` names the runs.

    explore.js sets the colours of the runs and the title of the y axis. Lines go by number for the same reason as the
    axes of the heat-map.
    """
    x = {
        "field": "step",
        "type": "quantitative",
        "scale": {"zero": False, "nice": False},
        "axis": {"title": "Optimiser step", "format": "d", "tickMinStep": 1, "grid": False},
    }
    y = {"field": "value", "type": "quantitative", "scale": {"zero": False}, "axis": {"tickCount": 6}}
    tooltip = [
        {"field": "name", "type": "nominal", "title": "Run"},
        {"field": "step", "type": "quantitative", "title": "Step"},
        {"field": "shown", "type": "nominal", "title": "Value"},
    ]
    layers: list[Spec] = [
        {
            "mark": {"type": "line", "strokeWidth": 1.6},
            "encoding": {
                "x": x,
                "y": y,
                "color": {
                    "field": "run",
                    "type": "nominal",
                    "legend": {
                        "orient": "top",
                        "title": None,
                        "columns": 2,
                        "symbolType": "stroke",
                        "labelExpr": "labels[datum.value]",
                    },
                },
                "strokeDash": {"field": "run", "type": "nominal"},
            },
        },
        {
            "mark": {"type": "point", "size": 120, "opacity": 0},
            "encoding": {"x": x, "y": y, "tooltip": tooltip},
        },
    ]
    return _chart(280, layers, {"labels": []})
