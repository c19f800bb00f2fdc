"""The figures: what is drawn is what the frames say, names of any kind are text, equal numbers give equal bytes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import numpy as np
import polars as pl

from tasks.core.results import RunInfo
from tasks.reporting.charts.accuracy import accuracy_pictures
from tasks.reporting.charts.catalogue import pictures
from tasks.reporting.charts.curves import (
    MOST_PANELS,
    angle_picture,
    cosine_profile_picture,
    mean_spectra,
    outside_picture,
    spectra_picture,
    training_picture,
)
from tasks.reporting.charts.heat_map import MOST_LABELLED, cosine_picture
from tasks.reporting.charts.lines import Line, few, lines_views, run_lines
from tasks.reporting.charts.picture import MOST_LINES, Picture, colour_of, label_of
from tasks.reporting.charts.style import PAPER, log_axis, quantity
from tasks.reporting.charts.svg import inline_svg
from tasks.reporting.views.pairs import EVERYTHING
from tasks.reporting.views.study import Study

Rows = list[dict[str, Any]]

BASE = RunInfo("base", "base", 0, 0, 0.0)


def rows(view: Any) -> Rows:
    found: Rows = view["data"]["values"]
    return found


def drawn(picture: Picture | None) -> Picture:
    assert picture is not None
    return picture


def test_the_dots_are_the_accuracies(study: Study) -> None:
    views = [one for picture in accuracy_pictures(study) for one in picture.spec["concat"]]
    assert [view["title"] for view in views] == [
        f"{name} accuracy, %; 95 % intervals, band: the base's" for name in ("Held-out", "Hard")
    ]
    for view, benchmark in zip(views, ("heldout", "hard"), strict=True):
        frame = study.accuracy.filter(benchmark=benchmark)
        for name, column in (("value", "accuracy"), ("low", "low"), ("high", "high")):
            assert [row[name] for row in rows(view)] == [100 * value for value in frame[column]]
        # Filled: the test against the base shows a difference.
        tests = {one["run_b"]: one for one in study.mcnemar.filter(benchmark=benchmark, run_a="base").to_dicts()}
        for row, run in zip(rows(view), frame["run"], strict=True):
            differs = run == "base" or tests[run]["verdict"] == "differs"
            assert (row["fill"] != PAPER) == differs, run


def test_the_cells_are_the_cosines(study: Study) -> None:
    view = study.geometry
    picture = drawn(cosine_picture(study))
    names = [info.run for info in view.runs]
    cells = {(names[row["i"]], names[row["j"]]): row for row in rows(picture.spec)}
    for row in study.pair_metrics.filter(EVERYTHING, metric="cosine").iter_rows(named=True):
        for pair in ((row["run_a"], row["run_b"]), (row["run_b"], row["run_a"])):
            assert cells[pair]["value"] == row["value"]
    assert all(cells[name, name]["value"] == 1 for name in names)
    # The floor itself: RIFT's .981 shares the order of the data, and across orders it is below.
    assert {pair for pair, row in cells.items() if row["framed"]} == {("sft", "sft-order1"), ("sft-order1", "sft")}
    ink = {row["ink"] for row in cells.values()}
    assert ink == {"#000000", "#ffffff"}  # whichever is seen on the cell


def test_lines_are_the_rows_of_whole_layers(study: Study) -> None:
    layers = study.pair_metrics.filter(
        pl.col("module") == "*", pl.col("layer").is_not_null(), pl.col("projection").is_null(), run_a="sft"
    )

    def points(panel: Any) -> set[tuple[float, float]]:
        return {(row["x"], round(row["y"], 9)) for row in rows(panel)}

    def frame(metric: str, k: int | None = None) -> pl.DataFrame:
        return layers.filter(pl.col("k").eq_missing(k), metric=metric)

    def expected(found: pl.DataFrame) -> set[tuple[float, float]]:
        null = found.group_by("layer").agg(pl.col("null").mean())
        every = [*found.select("layer", "value").iter_rows(), *null.iter_rows()]
        return {(layer, round(value, 9)) for layer, value in every}

    cosine = drawn(cosine_profile_picture(study))
    assert points(cosine.spec) == expected(frame("cosine"))
    top, worst = drawn(angle_picture(study)).spec["concat"]
    assert [panel["title"] for panel in (top, worst)] == ["Top-1 direction", "Worst of the top-8 subspace"]
    for panel, k in ((top, 1), (worst, 8)):
        assert points(panel) == expected(frame("angle_left", k))
    # Each run outside the reference, which this frame has first.
    outside = drawn(outside_picture(study))
    assert points(outside.spec) == expected(frame("orthogonal_fraction_reverse"))


def test_spectra_and_losses_are_the_frames(study: Study) -> None:
    view = study.geometry
    spectra = rows(drawn(spectra_picture(study)).spec)
    means = mean_spectra(study.spectra)
    for place, info in enumerate(view.runs):
        assert [(row["x"], row["y"]) for row in spectra if row["line"] == place] == means[info.run]
    losses = drawn(training_picture(study)).spec["concat"]
    assert [panel["title"]["text"].strip() for panel in losses] == [info.run for info in view.runs]
    for panel, info in zip(losses, view.runs, strict=True):
        own = study.training.filter(run=info.run, metric="loss").sort("step")
        assert [(row["x"], row["y"]) for row in rows(panel)] == own.select("step", "value").rows()


def test_a_run_has_a_colour_and_a_shape_and_a_floor_is_broken(study: Study) -> None:
    view = study.geometry
    points = {info.run: [(0, 0.5), (1, None), (2, float("inf"))] for info in view.runs}
    lines = run_lines(points, view)
    floor = next(line for line in lines if "floor" in line.name)
    assert (floor.colour, floor.shape) == ("currentColor", "stroke")
    assert floor.dash != (1, 0)
    others = [line for line in lines if line != floor]
    assert [line.colour for line in others] == [colour_of(info, view) for info in view.runs if info.run != "sft-order1"]
    assert len({line.shape for line in others}) == len(others)
    (panel,) = lines_views([lines], quantity("x"), quantity("y"))
    assert [row["y"] for row in rows(panel)[:3]] == [0.5, None, None]  # a gap: neither a zero nor an infinity
    (lone,) = lines_views([[Line([(3, 1.0)], "floor")]], quantity("x"), quantity("y"))
    assert rows(lone)[0]["marked"]


def test_a_line_looks_the_same_in_every_panel() -> None:
    """The second panel lacks the first panel's first line."""
    a, b = Line([(0, 1.0), (1, 1.0)], "a", "#111111", "circle"), Line([(0, 2.0), (1, 2.0)], "b", "#222222", "square")
    first, second = lines_views([[a, b], [b]], quantity("x"), quantity("y"))
    assert {row["line"] for row in rows(second)} == {row["line"] for row in rows(first) if row["y"] == 2.0}
    scales = [panel["layer"][1]["encoding"]["color"]["scale"] for panel in (first, second)]
    assert scales[0] == scales[1] == {"domain": [0, 1], "range": ["#111111", "#222222"]}


def test_of_many_runs_the_extremes_have_names(build_study: Callable[..., Study]) -> None:
    runs = [BASE, RunInfo("sft", "sft", 0, 0, 1e-3), *(RunInfo(f"m{i}", f"m{i}", 0, 0, 1e-3) for i in range(20))]
    tables = build_study(runs=runs)
    view = tables.geometry
    cosines = drawn(cosine_picture(tables))
    assert len(view.runs) > MOST_LABELLED
    assert len(rows(cosines.spec)) == len(view.runs) ** 2
    assert all(mark["mark"]["type"] == "rect" for mark in cosines.spec["layer"])  # no room for numbers
    profile = drawn(cosine_profile_picture(tables))
    named = {row["line"] for row in rows(profile.spec) if row["line"] >= 0}
    grey = {row["line"] for row in rows(profile.spec) if row["line"] < 0}
    assert (len(named), len(grey)) == (MOST_LINES, 21 - MOST_LINES)  # the null among the named, the reference not drawn
    assert f"the other {21 - MOST_LINES} in grey" in profile.note
    assert len(drawn(training_picture(tables)).spec["concat"]) == MOST_LINES < MOST_PANELS
    for picture in pictures(tables):
        ElementTree.fromstring(picture.svg)


NAMES = (
    "__proto__",
    "constructor",
    "日本語 👩‍🚀 \u202e\u05d0",
    "$\\alpha$ {}%_^<b>&\"'",
    "\x00\x07\x1b\u2028",
    "datum.label",
)


def test_names_are_text(build_study: Callable[..., Study]) -> None:
    runs = [BASE, *(RunInfo(name, "sft", 0, place, 1e-3) for place, name in enumerate(NAMES))]
    tables = build_study(runs=runs)
    view = tables.geometry
    heat = drawn(cosine_picture(tables)).svg
    said = {"".join(one.itertext()).strip() for one in ElementTree.fromstring(heat).iter() if one.tag.endswith("}text")}
    lost = str.maketrans(dict.fromkeys("\x00\x07\x1b", "\N{REPLACEMENT CHARACTER}"))
    assert {label_of(info, view).translate(lost).strip() for info in view.runs} <= said
    for picture in pictures(tables):
        ElementTree.fromstring(picture.svg)
        assert "<b>" not in picture.svg


def test_equal_numbers_give_equal_bytes_and_ids_of_their_own(study: Study) -> None:
    """Vega counts its ids through the process: the second drawing must not notice."""
    every = pictures(study)
    first = [picture.svg for picture in every]
    assert [inline_svg(picture.key, picture.label, picture.spec) for picture in reversed(every)] == first[::-1]
    for picture in every:
        ids = re.findall(r' id="([^"]+)"', picture.svg)
        assert len(ids) == len(set(ids))
        assert all(name.startswith(f"{picture.key}-") for name in ids)
        assert set(re.findall(r"url\(#([^)]+)\)", picture.svg)) <= set(ids)


def test_ticks_are_few_and_of_their_decade() -> None:
    assert few(list(range(5))) == [0, 1, 2, 3, 4]
    assert few(list(range(37)))[:3] == [0, 4, 8]
    near, far = log_axis("y", [0.2, 3.0], "norm"), log_axis("y", [1e-30, 1e30], "norm")
    assert near["axis"]["values"] == [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0]
    assert len(far["axis"]["values"]) <= 9
    assert np.isfinite(far["axis"]["values"]).all()
