"""The figure of every pair's cosines: of first gradients, of trained updates, of what inputs see of these."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl

from tasks.reporting.charts.picture import Picture, label_of, short
from tasks.reporting.charts.style import FAINT, INK, PALETTE, PAPER, Spec, figure, layer, names, quantity, rows_axis
from tasks.reporting.notes import count
from tasks.reporting.views.joined import GRADIENT, TRAINED, WEIGHTED, Joined, joined_pairs
from tasks.reporting.views.pairs import Geometry
from tasks.reporting.views.study import Study

LOOKS = {GRADIENT: (INK, PAPER, "circle"), TRAINED: (PALETTE[0], PALETTE[0], "circle"),
         WEIGHTED: (PALETTE[1], PALETTE[1], "diamond")}  # fmt: skip
"""Stroke, fill and shape of a mark."""
MOST_ROWS = 24
"""Pairs that are drawn; of more, those with the reference first."""
ROW = 14.5
EDGE = 1.1
"""A cosine without the noise of rows may lie beyond 1, and its interval far beyond."""
_LONGEST = 14

NUMBERS: dict[str, pl.DataType] = {
    "run_a": pl.String(), "run_b": pl.String(), "of": pl.String(), "cosine": pl.Float64(), "low": pl.Float64(),
    "high": pl.Float64(), "floor": pl.Float64(),
}  # fmt: skip


def why_picture(study: Study) -> Picture | None:
    """A row a pair, a mark for each of its cosines, short lines for its floors."""
    pairs, view = joined_pairs(study), study.geometry
    if not pairs:
        return None
    kept = sorted(pairs, key=lambda pair: view.reference not in (pair.a, pair.b))[:MOST_ROWS]
    shown = [pair for pair in pairs if pair in kept]
    drawn = [name for name in LOOKS if any(name in pair.found for pair in shown)]
    spec = figure(_view(_rows(shown, drawn), [_label(pair, view) for pair in shown], drawn), ROW * len(shown))
    first = "From the first gradient" if GRADIENT in drawn else "From the trained update"
    title = f"{first} to {'what inputs see' if WEIGHTED in drawn else 'the trained update'}"
    rows = [
        (pair.a.run, pair.b.run, name, one.value, one.low, one.high, pair.floors.get(name))
        for pair in pairs
        for name, one in pair.found.items()
    ]
    return Picture(
        "why", title, "Cosines of every pair before and after training", spec,
        " ".join(_note(shown, len(pairs), drawn, view)), "before" if GRADIENT in drawn else "pairs",
        pl.DataFrame(rows, schema=NUMBERS, orient="row"), "pair_metrics.parquet",
    )  # fmt: skip


def _note(shown: Sequence[Joined], total: int, drawn: Sequence[str], view: Geometry) -> Iterator[str]:
    reference, own = view.reference.run if view.reference else "", sum(pair.is_floor for pair in shown)
    if own:
        yield f"First {count(own, 'row')}: {reference} with itself, in another data order or initialisation."
    if GRADIENT in drawn:
        yield (
            "Open circle: cosine of the gradients of lora_B at the base, without the noise of the rows, and its 95 % "
            "interval, both cut at the edges; none where these rows are noise alone."
        )
    yield "Filled circle: of the trained updates, in one data order."
    if WEIGHTED in drawn:
        yield "Diamond: of these, weighted by the inputs that the modules have under the base."
    if any(pair.floors for pair in shown):
        yield "Short lines, each in its mark's colour: the lowest of a method of the pair with itself in another order."
    if len(shown) < total:
        yield f"Shown: {len(shown)} of {total} pairs, those with {reference} first; pair_metrics.parquet has all."


def _rows(pairs: Sequence[Joined], drawn: Sequence[str]) -> list[Spec]:
    """A mark a row; intervals of gradients alone, since those over three layers of a trained cosine hide all else."""
    return [
        {
            "place": place,
            "of": drawn.index(name),
            "value": min(EDGE, max(-EDGE, one.value or 0.0)),
            "low": None if one.low is None or name != GRADIENT else max(-EDGE, one.low),
            "high": None if one.high is None or name != GRADIENT else min(EDGE, one.high),
            "floor": pair.floors.get(name),
        }
        for place, pair in enumerate(pairs)
        for name in drawn
        if (one := pair.found.get(name)) is not None
    ]


def _label(pair: Joined, view: Geometry) -> str:
    a, b = (short(label_of(info, view), _LONGEST) for info in (pair.a, pair.b))
    return f"{a} – {b}"


def _view(rows: Sequence[Spec], labels: Sequence[str], drawn: Sequence[str]) -> Spec:
    ends = [row[name] for row in rows for name in ("value", "low", "high", "floor") if row[name] is not None]
    domain = (min(0.0, *ends) - 0.04, max(1.0, *ends) + 0.04)
    x, y = quantity("value", "Cosine", domain, grid=True, tickCount=6), rows_axis(labels)
    legend = {"orient": "top", "title": None, "columns": 3, "labelExpr": names(drawn), "symbolOpacity": 1}

    def look(part: int) -> Spec:
        scale = {"domain": list(range(len(drawn))), "range": [LOOKS[name][part] for name in drawn]}
        return {"field": "of", "type": "nominal", "scale": scale, "legend": legend}

    stroke, fill, shape = look(0), look(1), look(2)
    path = {"type": "line", "strokeWidth": 1, "color": FAINT}
    point = {"type": "point", "size": 34, "strokeWidth": 1.3, "opacity": 1}
    floor, known = {"type": "tick", "thickness": 1.4, "size": 11, "opacity": 1}, "isValid(datum.{})".format
    return {
        "data": {"values": list(rows)},
        "layer": [
            layer(path, x=x, y=y, detail={"field": "place", "type": "nominal"}, order={"field": "of"}),
            layer({"type": "rule", "opacity": 0.6}, known("high"), x={**x, "field": "low"}, x2={"field": "high"}, y=y,
                  stroke=stroke),
            layer(floor, known("floor"), x={**x, "field": "floor"}, y=y, stroke=stroke),
            layer(point, x=x, y=y, stroke=stroke, fill=fill, shape=shape),
        ],
    }  # fmt: skip
