"""The catalogue of metrics: one entry for each that is computed, agreeing with how it is; its page is up to date."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from tasks.core.sections import PathSpec
from tasks.geometry import visible
from tasks.geometry.activations.pairs import NAME
from tasks.geometry.base.metrics import BASE_METRICS
from tasks.geometry.spectrum import RANKS
from tasks.geometry.updates.metrics import PAIR_METRICS
from tasks.reporting import metrics
from tasks.reporting.charts.explore import pair_data
from tasks.reporting.metrics import BASE, INVERSE, PAIR, PATH, UPDATE, Column, Metric, metrics_page
from tasks.reporting.tables import pairs as table
from tasks.reporting.views.study import Study

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"


def test_the_committed_page_is_made_from_the_catalogue() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == metrics_page(page), f"python -m tasks.reporting.metrics {PAGE}"


def test_every_metric_that_is_computed_has_an_entry_and_the_other_way_round() -> None:
    turned = {metric.turned for metric in PAIR} - {"", INVERSE}
    assert {metric.name for metric in PAIR} | turned == {*PAIR_METRICS, NAME, visible.NAME}
    assert {metric.name for metric in UPDATE} == {"norm", *RANKS}
    assert {metric.name for metric in BASE} == set(BASE_METRICS)
    assert [metric.name for metric in PATH] == list(PathSpec().readings)


@pytest.mark.parametrize("entry", PAIR, ids=lambda entry: entry.name)
def test_an_entry_says_of_a_metric_what_is_computed(entry: Metric) -> None:
    beside = {NAME: PAIR_METRICS["cosine"], visible.NAME: visible.METRIC}
    computed = (PAIR_METRICS | beside)[entry.name]
    assert entry.bounds == computed.span
    assert entry.null == (computed.null is not None or entry.name == visible.NAME)  # whose null is counted
    assert ("median" in entry.over) == computed.is_median
    assert ("{k}" in entry.title) == computed.by_k


def test_an_entry_is_all_that_a_new_metric_takes(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands in the table of pairs and in the explorer under the words of its entry, oriented as any other."""
    new = replace(metrics.pair_metric("u1_overlap"), name="new", title="A new one", columns=(Column("New"),), note="N.")
    monkeypatch.setattr(table, "PAIR", (*PAIR, new))
    monkeypatch.setitem(metrics.PAIRS, "new", new)
    rows = study.pair_metrics.filter(metric="v1_overlap").with_columns(metric=pl.lit("new"), value=0.125)
    more = replace(study, pair_metrics=pl.concat([study.pair_metrics, rows]))
    view = more.geometry
    against, *_ = table.pair_tables(view)
    assert against.header[-1] == "New"
    assert against.rows[1][-1].text == "0.125"
    assert " N. " in against.note
    data = pair_data(more)
    assert data is not None
    assert (data["metrics"][-1]["title"], data["metrics"][-1]["nearer"]) == ("A new one", "high")
