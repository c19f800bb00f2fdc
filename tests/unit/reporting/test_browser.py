"""The page in a real browser, with the network off: Debian's chromium, which nothing here installs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tasks.core.results import RunInfo
from tasks.reporting.formats import number
from tasks.reporting.publish.write import write_report
from tasks.reporting.tables.record import rollout_record
from tasks.reporting.views.study import Study
from tests.lab.browsing import csv, launched, measured, pick, ready, scrub, visiting

pytestmark = pytest.mark.slow  # a browser

SIZES = [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]
RTL = "\u202e\u05d0\u05d1"
EVIL = "=x</script><script>window.owned=1</script><img src=x onerror=window.owned=1><!--\u2028'\"`${window.owned=1}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def folder(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page")
    write_report(study, out)
    return out


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    with visiting(browser) as go:
        yield go


def cells(page: Any) -> list[str]:
    texts = page.locator("#explore-heat-map svg .mark-text.role-mark text").all_text_contents()
    return [text.replace("−", "-") for text in texts]


@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_a_pair_and_a_layer_show_the_parquets_numbers(
    visit: Callable[..., Any], folder: Path, width: int, scheme: str
) -> None:
    page = visit(folder / "report.html", width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    frame = measured(folder, "cosine")
    pick(page, run="dft", other="sft")
    values = frame.filter(run_a="sft", run_b="dft")["value"].to_list()
    order = frame.filter(run_a="sft", run_b="sft-order1")["value"].to_list()
    seen = []
    for place, value in enumerate(values):
        scrub(page, place)
        seen.append(page.inner_text("#explore-value"))
        assert seen[-1] == number(value, 3)
        assert f"floor: data order {number(order[place], 3)}" in page.inner_text("#explore-beside")
        assert page.inner_text("#explore-place") == (f"layer {place - 1}" if place else "all layers")
        layer = frame.filter(pl.col("layer").eq_missing(place - 1 if place else None))
        expected = [re.sub(r"^(-?)0\.", r"\1.", number(v, 3)) for v in layer["value"]]
        assert sorted(cells(page)) == sorted(2 * expected)
    assert len(set(seen)) > 1
    pick(page, metric="Largest angle of the top-5 left subspaces")
    angle = measured(folder, "angle_left", 5).filter(run_a="sft", run_b="dft")["value"].to_list()
    assert page.inner_text("#explore-value") == f"{number(angle[-1], 1)}°"
    ink = page.evaluate("getComputedStyle(document.querySelector('#explore-profile svg text')).fill")
    assert ink == page.evaluate("getComputedStyle(document.body).color")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_downloads_are_the_parquets_at_full_precision(visit: Callable[..., Any], folder: Path) -> None:
    page = visit(folder / "report.html")
    pick(page, run="sft", other="dpo", metric="First left singular vectors |u1 u1'|")
    frame = measured(folder, "u1_overlap")
    profile = csv(page, "explore-profile")
    expected = frame.filter(run_a="sft", run_b="dpo").select("run_a", "run_b", "layer", "value", "null")
    assert_frame_equal(profile.select(expected.columns), expected, check_exact=True)
    floor = frame.filter(run_a="sft", run_b="sft-order1")["value"]
    assert profile["floor_data_order"].to_list() == floor.to_list()
    scrub(page, 3)
    heat = csv(page, "explore-heat-map").select("run_a", "run_b", "layer", "value")
    layer = frame.filter(layer=2).select(heat.columns)
    assert_frame_equal(heat, layer, check_exact=True, check_row_order=False)
    accuracy = csv(page, "figure-accuracy")
    assert_frame_equal(accuracy, pl.read_parquet(folder / "accuracy.parquet"), check_exact=True, check_dtypes=False)


def test_every_table_and_figure_has_its_download(visit: Callable[..., Any], folder: Path) -> None:
    page = visit(folder / "report.html", 390)
    page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    assert page.locator("table[id]").count() > 12
    without = page.evaluate(
        "[...document.querySelectorAll('table[id], figure')].filter((part) => part.tagName === 'TABLE'"
        " ? !part.parentElement.nextElementSibling?.matches('button.csv') : !part.querySelector('.csv'))"
        ".map((part) => part.id)"
    )
    assert without == []
    frame = pl.read_parquet(folder / "accuracy.parquet")
    shown = csv(page, "accuracy").filter(pl.col("Run").is_in(frame["run"].unique()))  # others are the noise floors
    assert shown["Correct"].cast(pl.Int64).to_list() == frame["correct"].to_list()
    assert shown["Run"].to_list() == frame["run"].to_list()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_click_on_a_cell_chooses_its_pair(visit: Callable[..., Any], folder: Path) -> None:
    page = visit(folder / "report.html")
    cell = page.locator("#explore-heat-map svg .mark-rect.role-mark path[aria-label^='dpo against rift']")
    cell.click(force=True)
    ready(page)
    assert page.inner_text("#explore-what") == "Cosine: dpo against rift, all layers"
    tooltip = page.locator("#vg-tooltip-element.visible")
    value = measured(folder, "cosine").filter(pl.col("layer").is_null(), run_a="rift", run_b="dpo")["value"].item()
    assert number(value, 3) in tooltip.inner_text()
    # The run that is chosen twice changes places with the other.
    pick(page, run="rift")
    assert page.inner_text("#explore-what") == "Cosine: rift against dpo, all layers"


def test_paper_shows_the_figures_without_the_controls(visit: Callable[..., Any], folder: Path) -> None:
    page = visit(folder / "report.html")
    page.emulate_media(media="print")
    assert not page.is_visible("#explore")
    assert page.locator("button.csv:visible").count() == 0
    assert page.is_visible("#figure-cosines svg")


@pytest.mark.parametrize("width", [1280, 390])
def test_no_script_of_a_name_runs(
    visit: Callable[..., Any], build_study: Callable[..., Study], tmp_path: Path, width: int
) -> None:
    runs = [
        RunInfo("base", "base", 0, 0, 0.0),
        RunInfo(EVIL, "sft", 0, 0, 1e-3),
        RunInfo(f"{EVIL}2", EVIL, 0, 0, 1e-3),
        RunInfo("__proto__", "sft", 0, 1, 1e-3),
    ]
    tables = build_study(runs=runs)
    evil = tables.training.with_columns(metric=pl.lit(EVIL))
    graded = pl.DataFrame(
        {"problem_id": ["a", "a"], "prompt": [EVIL, EVIL], "completion": [f"{RTL}{EVIL}", "x" * 4000],
         "completion_ids": [[1], [1, 2]], "answer": [EVIL, None], "extracted": [RTL, None], "reward": [1.0, 0.0]}
    )  # fmt: skip
    said = {"name": EVIL, "notes": [EVIL], "rollouts_seen": rollout_record(graded)}
    tables = replace(tables, training=pl.concat([tables.training, evil]), record={**tables.record, **said})
    write_report(tables, tmp_path)
    page = visit(tmp_path / "report.html", width)
    page.locator("#explore-heat-map svg .mark-rect.role-mark path").first.hover(force=True)
    assert EVIL in page.inner_text("#explore-what") or "__proto__" in page.inner_text("#explore-what")
    page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    answers = page.locator("#examples tbody tr td:nth-child(2)")
    assert answers.all_text_contents() == [f"{RTL}{EVIL}", f"{'x' * 1200} [and 2800 more characters]"]
    assert answers.nth(1).bounding_box()["width"] <= 421
    # Its direction ends with its cell.
    assert page.locator("#examples td:nth-child(3)").first.evaluate("cell => getComputedStyle(cell).direction") == "ltr"
    names = csv(page, "explore-heat-map")
    # A spreadsheet would run what begins with "=".
    assert names["run_a"][0] == f"'{EVIL}"
    assert page.evaluate("window.owned") is None
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 5
    assert page.evaluate("document.documentElement.scrollWidth") <= width
