"""The accuracy of every run with its interval, one panel a benchmark."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from tasks.core.results import NO_POWER, RunInfo
from tasks.reporting.charts.picture import Picture, colour_of, label_of, short
from tasks.reporting.charts.style import CROSS, FAINT, INK, PAPER, Spec, given, layer, panels, quantity, room, rows_axis
from tasks.reporting.formats import benchmark_name, percent
from tasks.reporting.views.accuracy import MARGIN, NOT_JUDGED
from tasks.reporting.views.study import Study

MOST_ROWS = 48
"""Dots of the figure; the table has all benchmarks."""
MOST_CHARACTERS = 40
"""Of a benchmark's name above its panel: one of a file may be longer than the figure is wide."""


OTHERS = "accuracy-others"
"""Key of the figure of all benchmarks but the first."""


def accuracy_pictures(study: Study) -> list[Picture]:
    """Dots with intervals, the base as a vertical line: the first benchmark, then the others in one more figure."""
    first, *others = _drawn(study) or [""]
    told = "" if 1 + len(others) == len(study.benchmarks) else " The table has the other benchmarks."
    found = [_picture("accuracy", "Does it change accuracy?", [first], "", study)] if first else []
    if others:
        found.append(_picture(OTHERS, "Accuracy on other benchmarks", others, told, study))
    return found


def _picture(key: str, title: str, names: Sequence[str], cut: str, study: Study) -> Picture:
    sizes = [f"{benchmark_name(name)} n = {_most(study, name)}" for name in names]
    note = (
        f"Bars: 95 % interval over problems; {', '.join(sizes)}. The line is the base, the band its interval. Filled "
        "dot: differs from the base (exact McNemar, p up to 0.05, Holm-adjusted over the main runs); open dot: equal "
        f"to it within {MARGIN} (paired 95 % interval); cross: no power to tell. The bars ignore the pairing: judge by "
        f"the test, not by their overlap.{cut}"
    )
    label, spec = "Accuracy of every run with its interval", panels([_panel(study, name) for name in names])
    return Picture(key, title, label, spec, note, "accuracy", study.accuracy, "accuracy.parquet")


def _drawn(study: Study) -> list[str]:
    """The first benchmarks, as many as leave the figure a height that can be read."""
    kept: list[str] = []
    rows = 0
    for name in study.benchmarks:
        rows += len(_scored(study, name))
        if kept and rows > MOST_ROWS:
            break
        kept.append(name)
    return kept


def _most(study: Study, benchmark: str) -> int:
    return max(study.accuracy.filter(pl.col("benchmark") == benchmark)["n"])


def _scored(study: Study, benchmark: str) -> list[RunInfo]:
    return [info for info in study.ordered if study.score(info.run, benchmark)]


def _panel(study: Study, benchmark: str) -> Spec:
    infos, base = _scored(study, benchmark), study.base
    return accuracy_panel(
        f"{short(benchmark_name(benchmark), MOST_CHARACTERS)} accuracy, %; 95 % intervals, band: the base's",
        [label_of(info, study.geometry) for info in infos],
        [_row(study, benchmark, place, info) for place, info in enumerate(infos)],
        infos.index(base) if base in infos else -1,
    )


def accuracy_panel(title: str, labels: Sequence[str], rows: Sequence[Spec], base: int = -1) -> Spec:
    """Dots with their intervals and numbers, a row a model; that of the row ``base`` as a band over all."""
    x, y = quantity("value", pad=24, tickCount=6), rows_axis(labels)
    ends = {**x, "field": "low"}
    colour, of_base = given("colour"), f"datum.place === {base}"
    return {
        "title": title,
        "width": room(labels),
        "height": 17 * len(labels),
        "data": {"values": list(rows)},
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


def _row(study: Study, benchmark: str, place: int, info: RunInfo) -> Spec:
    found, base = study.score(info.run, benchmark), study.base
    assert found is not None
    against = study.versus(info.run, base.run, benchmark)
    filled = info == base or (against is not None and against.shown)
    unsure = info != base and (against is None or against.verdict in (NO_POWER, NOT_JUDGED))
    colour = colour_of(info, study.geometry)
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
