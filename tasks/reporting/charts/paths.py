"""Loss and accuracy along the straight paths to the reference: one figure a reading, one panel a pair."""

from __future__ import annotations

import polars as pl

from tasks.core.results import RunInfo
from tasks.reporting.charts.picture import Picture, colour_of, label_of
from tasks.reporting.charts.style import FAINT, INK, Spec, heading, layer, panels, quantity
from tasks.reporting.charts.svg import WIDTH
from tasks.reporting.notes import count
from tasks.reporting.views.pairs import Geometry
from tasks.reporting.views.paths import READINGS, curve
from tasks.reporting.views.study import Study

MOST_PANELS = 9
"""Pairs that are drawn: the noise floors first, then those of the highest barriers."""

_NARROW = 18
"""Characters of a title over one of three panels side by side."""

Curve = list[tuple[float, float]]


def path_pictures(study: Study) -> list[Picture]:
    """Small multiples over the pairs with the reference, for each reading that was taken."""
    view = study.geometry
    if view.reference is None or study.connectivity.is_empty():
        return []
    shown = _chosen(study, view.reference)
    drawn = (_picture(study, view.reference, shown, reading) for reading in READINGS)
    return [picture for picture in drawn if picture is not None]


def _chosen(study: Study, reference: RunInfo) -> list[RunInfo]:
    """The runs with a path to the reference, in the study's order; of many those whose paths say most."""
    view = study.geometry
    paths, ends = study.paths, study.connectivity.filter(view.near)
    measured = {*ends["run_a"], *ends["run_b"]} - {reference.run}

    def rank(info: RunInfo) -> tuple[bool, float]:
        found = (paths.find(info.run, reference.run, False, reading) for reading in paths.readings)
        highest = max((barrier.value for barrier in found if barrier and barrier.value is not None), default=0.0)
        return view.replicate(info, reference) is None, -highest

    runs = [info for info in view.runs if info.run in measured]
    kept = sorted(runs, key=rank)[:MOST_PANELS]
    return [info for info in runs if info in kept]


def _picture(study: Study, reference: RunInfo, shown: list[RunInfo], reading: str) -> Picture | None:
    view = study.geometry
    scale = READINGS[reading].scale
    curves: list[tuple[RunInfo, Curve, Curve]] = []
    for info in shown:
        plain, matched = (
            [
                (alpha, scale * value)
                for alpha, value in curve(study.connectivity, info.run, reference.run, flag, reading)
            ]
            for flag in (False, True)
        )
        if plain or matched:
            curves.append((info, plain, matched))
    if not curves:
        return None
    columns = 3 if max(len(_title(info, view, reference)) for info, *_ in curves) <= _NARROW else 2
    frame = study.connectivity.filter(pl.col("reading") == reading, pl.col("run_a") != pl.col("run_b"))
    title = f"{READINGS[reading].title} on the way to {reference.run}"
    heights = [value for _, plain, matched in curves for _, value in (*plain, *matched)]
    # Of values that differ by their rounding only, an axis would name every digit.
    pad = max(0.04 * (max(heights) - min(heights)), 2e-4 * abs(max(heights))) or 1.0
    domain = (min(heights) - pad, max(heights) + pad)
    unit = "Accuracy, %" if reading == "accuracy" else f"Loss, {READINGS[reading].unit}"
    views = []
    for place, (info, plain, matched) in enumerate(curves):
        first, last = place % columns == 0, place >= len(curves) - columns
        y = quantity("value", unit if first else None, domain, grid=True, tickCount=4, titleFontSize=9,
                     **({"minExtent": 24} if first else {"labels": False, "ticks": False}))  # fmt: skip
        colour = INK if view.replicate(info, reference) else colour_of(info, view)
        head = {"title": heading(_title(info, view, reference), 9), "height": 72,
                "width": (WIDTH - 58 - 12 * (columns - 1)) / columns}  # fmt: skip
        views.append(head | _panel(plain, matched, y, colour, last))
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
    numbers, spec = study.connectivity.filter(pl.col("reading") == reading, view.near), panels(views, columns)
    return Picture(f"path-{reading}", title, title, spec, note, "barriers", numbers, "connectivity.parquet")


def _side(reading: str) -> str:
    return "lies below" if reading == "accuracy" else "rises above"


def _title(info: RunInfo, view: Geometry, reference: RunInfo) -> str:
    return f"{label_of(info, view)}{' (floor)' if view.replicate(info, reference) else ''}"


def _panel(plain: Curve, matched: Curve, y: Spec, colour: str, last: bool) -> Spec:
    """Rows: alpha, value, ``matched``, and the chord between the path's ends at that alpha."""
    rows = [
        {"alpha": alpha, "value": value, "matched": flag,
         "chord": points[0][1] + alpha * (points[-1][1] - points[0][1])}
        for flag, points in ((False, plain), (True, matched))
        for alpha, value in points
    ]  # fmt: skip
    x = quantity("alpha", "alpha" if last else None, (0, 1), pad=4, values=[0, 0.5, 1], labels=last,
                 labelExpr="datum.value === 0.5 ? '.5' : datum.value")  # fmt: skip
    of = {"field": "matched", "type": "nominal"}
    dash = {**of, "scale": {"domain": [False, True], "range": [[1, 0], [5, 3]]}, "legend": None}
    chord = {"type": "line", "strokeDash": [1, 2], "strokeWidth": 1, "color": FAINT}
    line = {"type": "line", "strokeWidth": 1.3, "color": colour}
    return {
        "data": {"values": rows},
        "layer": [
            layer(chord, x=x, y={**y, "field": "chord"}, detail=of),
            layer(line, x=x, y=y, strokeDash=dash),
            layer({"type": "point", "filled": True, "size": 7, "opacity": 1, "color": colour}, x=x, y=y),
        ],
    }
