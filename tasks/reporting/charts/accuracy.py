"""The accuracy of every run with its interval, one panel a benchmark."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from tasks.core.results import NO_POWER, RunInfo
from tasks.reporting.charts.picture import Picture, colour_of, label_of, short
from tasks.reporting.charts.style import CROSS, FAINT, INK, PAPER, Spec, given, layer, panels, quantity, room, rows_axis
from tasks.reporting.formats import benchmark_name, percent
from tasks.reporting.views.join import MARGIN, NOT_JUDGED, StudyTables, base_of, benchmarks, ordered_runs, score, versus
from tasks.reporting.views.pairs import Geometry

MOST_ROWS = 48
"""Dots of the figure; the table has all benchmarks."""
MOST_CHARACTERS = 40
"""Of a benchmark's name above its panel: one of a file may be longer than the figure is wide."""


OTHERS = "accuracy-others"
"""Key of the figure of all benchmarks but the first."""


def accuracy_pictures(tables: StudyTables, view: Geometry) -> list[Picture]:
    """Dots with intervals, the base as a vertical line: the first benchmark, then the others in one more figure."""
    first, *others = _drawn(tables) or [""]
    told = "" if 1 + len(others) == len(benchmarks(tables)) else " The table has the other benchmarks."
    found = [_picture("accuracy", "Does it change accuracy?", [first], "", tables, view)] if first else []
    if others:
        found.append(_picture(OTHERS, "Accuracy on other benchmarks", others, told, tables, view))
    return found


def _picture(key: str, title: str, names: Sequence[str], cut: str, tables: StudyTables, view: Geometry) -> Picture:
    sizes = [f"{benchmark_name(name)} n = {_most(tables, name)}" for name in names]
    note = (
        f"Bars: 95 % interval over problems; {', '.join(sizes)}. The line is the base, the band its interval. Filled "
        "dot: differs from the base (exact McNemar, p up to 0.05, Holm-adjusted over the main runs); open dot: equal "
        f"to it within {MARGIN} (paired 95 % interval); cross: no power to tell. The bars ignore the pairing: judge by "
        f"the test, not by their overlap.{cut}"
    )
    label, spec = "Accuracy of every run with its interval", panels([_panel(tables, view, name) for name in names])
    return Picture(key, title, label, spec, note, "accuracy")


def _drawn(tables: StudyTables) -> list[str]:
    """The first benchmarks, as many as leave the figure a height that can be read."""
    kept: list[str] = []
    rows = 0
    for name in benchmarks(tables):
        rows += len(_scored(tables, name))
        if kept and rows > MOST_ROWS:
            break
        kept.append(name)
    return kept


def _most(tables: StudyTables, benchmark: str) -> int:
    return max(tables.accuracy.filter(pl.col("benchmark") == benchmark)["n"])


def _scored(tables: StudyTables, benchmark: str) -> list[RunInfo]:
    return [info for info in ordered_runs(tables) if score(tables, info.run, benchmark)]


def _panel(tables: StudyTables, view: Geometry, benchmark: str) -> Spec:
    infos, base = _scored(tables, benchmark), base_of(tables)
    labels = [label_of(info, view) for info in infos]
    x, y = quantity("value", pad=24, tickCount=6), rows_axis(labels)
    ends = {**x, "field": "low"}
    colour, of_base = given("colour"), f"datum.place === {infos.index(base) if base in infos else -1}"
    return {
        "title": f"{short(benchmark_name(benchmark), MOST_CHARACTERS)} accuracy, %; 95 % intervals, band: the base's",
        "width": room(labels),
        "height": 17 * len(infos),
        "data": {"values": [_row(tables, view, benchmark, place, info) for place, info in enumerate(infos)]},
        "layer": [
            layer({"type": "rect", "color": FAINT, "opacity": 0.25}, of_base, x=ends, x2={"field": "high"}),
            layer({"type": "rule", "color": INK}, of_base, x=x),
            layer({"type": "rule", "strokeWidth": 2, "color": colour}, x=ends, x2={"field": "high"}, y=y),
            layer({"type": "point", "size": 42, "strokeWidth": 1.6, "opacity": 1, "stroke": colour,
                   "fill": given("fill"), "shape": given("shape")}, x=x, y=y),
            layer({"type": "text", "align": "left", "dx": 5, "fontSize": 9, "color": INK, "text": given("text")},
                  x={**x, "field": "high"}, y=y),
        ],
    }  # fmt: skip


def _row(tables: StudyTables, view: Geometry, benchmark: str, place: int, info: RunInfo) -> Spec:
    found, base = score(tables, info.run, benchmark), base_of(tables)
    assert found is not None
    against = versus(tables, info.run, base.run, benchmark)
    filled = info == base or (against is not None and against.shown)
    unsure = info != base and (against is None or against.verdict in (NO_POWER, NOT_JUDGED))
    colour = colour_of(info, view)
    return {
        "place": place,
        "value": 100 * found.accuracy,
        "low": 100 * found.low,
        "high": 100 * found.high,
        "text": percent(found.accuracy),
        "colour": colour,
        "fill": colour if filled else PAPER,
        "shape": CROSS if unsure else "circle",
    }
