"""The heat-map of the cosines between updates."""

from __future__ import annotations

import numpy as np
import polars as pl

from tasks.reporting.charts.picture import Picture, label_of
from tasks.reporting.charts.style import FAINT, Spec, figure, given, layer, names, room
from tasks.reporting.formats import number
from tasks.reporting.notes import floor_note
from tasks.reporting.views.floors import KINDS
from tasks.reporting.views.pairs import EVERYTHING, REACHED, ZERO, Geometry, cosine_matrix
from tasks.reporting.views.study import Updates

MOST_LABELLED = 11
"""Runs above which the cells have no room for numbers; the table has them."""


def cosine_picture(study: Updates) -> Picture | None:
    """Heat-map of the global cosines, the noise floor on its colour bar, a frame round the cells that reach theirs."""
    view = study.geometry
    cosines = cosine_matrix(view)
    if len(view.runs) < 2 or np.isnan(cosines[~np.eye(len(cosines), dtype=bool)]).all():
        return None
    measured = any(view.floor_of(kind, "cosine") for kind in KINDS)
    note = (
        f"<dW, dW'> / (|dW| |dW'|) over all entries of {view.modules} shared modules, one value a pair. "
        + floor_note(view)
        + (" Framed cells are at their floor or are the floor itself." if measured else "")
        + (" Of so many runs the numbers below stand for the names beside." if len(view.runs) > MOST_LABELLED else "")
        + (" zero: an update of zero, which has no direction." if view.zero else "")
    )
    label = "Cosine between the weight updates of every pair of runs"
    numbers = study.drawn(EVERYTHING, pl.col("metric") == "cosine")
    title, spec = "Do the weights move the same way?", _heat_map(cosines, view)
    return Picture("cosines", title, label, spec, note, "cosines", numbers, "pair_metrics.parquet")


def _heat_map(cosines: np.ndarray, view: Geometry) -> Spec:
    n, low = len(cosines), min(0.0, float(np.nanmin(cosines)))
    labels, crowded = [label_of(info, view) for info in view.runs], n > MOST_LABELLED
    below = [str(place + 1) for place in range(n)] if crowded else labels
    if crowded:  # a name once is enough: its number stands for it
        labels = [f"{name} {place}" for name, place in zip(labels, below, strict=True)]
    size = min(7.0, 190 / n) if crowded else 9.0
    height = room(labels, size, 80) / n if crowded else 33  # many are square, few have room for a number

    def place(field: str, texts: list[str], **axis: object) -> Spec:
        words = {"title": None, "domain": False, "ticks": False, "labelFontSize": size, "labelExpr": names(texts)}
        scale = {"domain": list(range(n)), "padding": 0.04}
        return {"field": field, "type": "nominal", "scale": scale, "axis": {**words, **axis}}

    turn = {"labelAngle": 0, "values": list(range(0, n, -(-n // 20)))} if crowded else {"labelAngle": -40}
    cell = {"x": place("j", below, **turn), "y": place("i", labels)}
    ticks = [tick for tick in (0.0, 0.25, 0.5, 0.75, 1.0) if view.floor is None or abs(tick - view.floor) > 0.08]
    said = [f"{tick:g}" for tick in ticks]
    if view.floor is not None:
        ticks, said = [*ticks, view.floor], [*said, f"– {number(view.floor, 3)} floor"]
    bar = {"title": None, "values": ticks, "labelExpr": f"{said}[indexof({ticks}, datum.value)]",
           "gradientLength": max(90, height * n), "gradientThickness": 10, "labelOverlap": False}  # fmt: skip
    colour = {"field": "value", "type": "quantitative", "scale": {"scheme": "cividis", "domain": [low, 1]},
              "legend": bar}  # fmt: skip
    dotted = {"type": "rect", "filled": False, "stroke": FAINT, "strokeDash": [1, 3]}
    frame = {"type": "rect", "filled": False, "stroke": given("ink"), "strokeWidth": 0.6 if crowded else 1.6,
             "width": {"band": 0.92}, "height": {"band": 0.92}}  # fmt: skip
    layers = [
        layer({"type": "rect"}, "isValid(datum.value)", **cell, color=colour),
        layer(dotted, "!isValid(datum.value)", **cell),
        layer(frame, "datum.framed", **cell),
    ]
    if not crowded:
        text = {"type": "text", "fontSize": 8.5, "color": given("ink"), "text": given("text")}
        layers.append(layer(text, **cell))
    return figure({"data": {"values": _cells(cosines, view, low)}, "layer": layers}, {"step": height})


def _cells(cosines: np.ndarray, view: Geometry, low: float) -> list[Spec]:
    """Row and column, value (None where there is none), what stands in the cell and in which ink, whether framed."""
    cells = []
    for (i, j), cosine in np.ndenumerate(cosines):
        a, b = view.runs[i], view.runs[j]
        if np.isnan(cosine):
            text, ink = "zero" if view.missing(a.run, b.run, "cosine") == ZERO else "n/m", "currentColor"
        else:
            text = "1" if i == j else number(cosine, 3 if len(cosines) <= 8 else 2).replace("0.", ".", 1)
            ink = "#000000" if (cosine - low) / (1 - low) > 0.55 else "#ffffff"
        framed = i != j and not np.isnan(cosine) and view.standing(a, b) in REACHED
        value = None if np.isnan(cosine) else float(cosine)
        cells.append({"i": i, "j": j, "value": value, "text": text, "ink": ink, "framed": framed})
    return cells
