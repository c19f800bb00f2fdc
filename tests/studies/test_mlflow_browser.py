"""MLflow's own pages in a real browser: a finished study is found, its adapters are nested below it and sorted, its
report opens, two adapters are compared. What the pages show is held against the study's own files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tasks.core.results import RunInfo
from tasks.reporting.findings.lead import lead
from tasks.reporting.views.read import read_study
from tasks.storage.recorded import fetch
from tasks.storage.store import STUDIES, Store
from tests.lab.browsing import launched
from tests.lab.living import Ui, environment

pytestmark = [pytest.mark.slow, pytest.mark.long]
PATIENCE = 120_000
"""Milliseconds, on a machine that is busy."""

ROWS = """() => {
  const rows = {};
  for (const row of document.querySelectorAll('.ag-row')) {
    const cells = rows[row.getAttribute('row-index')] ??= {};
    for (const cell of row.querySelectorAll('[col-id]')) {
      cells[cell.getAttribute('col-id')] = cell.innerText.trim().split('\\n').pop();
    }
  }
  return Object.keys(rows).sort((a, b) => a - b).map((index) => rows[index]);
}"""
"""The table's rows, top to bottom: column -> text (a name stands below the code of its colour). Pinned and scrolled
columns are rows of their own."""


@dataclass(frozen=True)
class Finished:
    """A smoke study in the store that MLflow's server shows."""

    folder: Path
    run: str
    children: dict[str, str]
    """MLflow's name of an adapter's run -> its id."""
    accuracy: dict[str, float]
    """The same name -> held-out accuracy."""


@pytest.fixture(scope="module")
def study(ui: Ui, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("pages") / "out"
    words = ["study", "smoke", "--set", "name=pages", "--out", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *words],
        env=environment(ui.home),
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    return finished(folder)


def finished(folder: Path) -> Finished:
    record = json.loads((folder / "study.json").read_text())
    scored = pl.read_parquet(folder / "accuracy.parquet").filter(benchmark="heldout")
    found = dict(scored.select("run", "accuracy").iter_rows())
    names = {info["run"]: f"train {RunInfo(**info).label}" for info in record["runs"]}
    return Finished(
        folder,
        record["mlflow"]["study"],
        {name: record["mlflow"][name] for name in names.values()},
        {name: found[run] for run, name in names.items()},
    )


@pytest.fixture(scope="module")
def page(ui: Ui) -> Any:
    with launched() as browser:
        user, _, password = ui.login.partition(":")
        page = browser.new_page(
            viewport={"width": 1800, "height": 1000}, http_credentials={"username": user, "password": password}
        )
        page.set_default_timeout(PATIENCE)
        yield page


def test_adapters_are_sorted_by_accuracy_with_their_columns(ui: Ui, page: Any, study: Finished) -> None:
    open_view(ui, page, "adapters", "tags.kind = 'method' and tags.study = 'pages'")
    rows = shown(page, len(study.accuracy), "metrics.`accuracy`")
    assert page.get_by_text("Adapters, most accurate first").first.is_visible()
    accuracies = [float(row["metrics.`accuracy`"]) for row in rows]
    assert accuracies == pytest.approx(sorted(study.accuracy.values(), reverse=True), abs=1e-6)
    for row in rows:
        name = row["attributes.`Run Name`"]
        assert float(row["metrics.`accuracy`"]) == pytest.approx(study.accuracy[name], abs=1e-6)
        assert row["params.`method`"] == name.split()[1]
        assert {row["params.`lr`"]} <= {"0.001", "0.0001"}
    assert {row["metrics.`cosine_to_sft`"] for row in rows if row["attributes.`Run Name`"].split()[1] == "sft"} >= {"1"}


def test_two_adapters_are_compared(ui: Ui, page: Any, study: Finished) -> None:
    open_view(ui, page, "adapters", "tags.kind = 'method' and tags.study = 'pages'")
    rows = shown(page, len(study.accuracy), "metrics.`accuracy`")
    pair = ("train sft seed=0 lr=1e-3", "train dpo seed=0 lr=1e-4")
    for wanted in pair:
        place = [row["attributes.`Run Name`"] for row in rows].index(wanted)
        page.locator(f".ag-row[row-index='{place}'] input[type=checkbox]").first.check()
    page.get_by_test_id("runs-compare-button").click()
    page.get_by_text("Comparing 2 Runs", exact=False).first.wait_for()
    page.get_by_text("cosine_to_sft", exact=True).first.wait_for()
    text = page.locator("body").inner_text()
    assert re.search(r"\bmethod\s+(sft\s+dpo|dpo\s+sft)", text)
    sft, dpo = (f"{study.accuracy[name]:.3f}" for name in pair)
    assert re.search(rf"\n({sft}\s+{dpo}|{dpo}\s+{sft})\n", text)  # names stand in one list, values in another


def test_adapters_are_nested_below_their_study(ui: Ui, page: Any, study: Finished) -> None:
    page.goto("about:blank")
    page.goto(f"{ui.mlflow}/#/experiments/{experiment(ui)}/runs?workflowType=machine_learning")
    page.get_by_text("pages seed=0", exact=True).first.wait_for()
    assert page.get_by_text("train rift seed=0 lr=1e-3", exact=True).count() == 0
    names = [row["attributes.`Run Name`"] for row in page.evaluate(ROWS)]
    place = names.index("pages seed=0")
    page.locator(f".ag-row[row-index='{place}'] [col-id='attributes.`Run Name`'] button").first.click()
    page.get_by_text("train rift seed=0 lr=1e-3", exact=True).first.wait_for()
    names = [row["attributes.`Run Name`"] for row in page.evaluate(ROWS)]
    assert sorted(names[place + 1 : place + 1 + len(study.children)]) == sorted(study.children)


def test_the_report_opens_with_its_headline_and_its_scripts(ui: Ui, page: Any, study: Finished) -> None:
    page.goto("about:blank")
    page.goto(f"{ui.mlflow}/#/experiments/{experiment(ui)}/runs/{study.run}?workflowType=machine_learning")
    page.get_by_text("against base").first.wait_for()  # the description's table
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("report.html", exact=True).first.click()
    frame = page.frame_locator("iframe").first
    tables = read_study(study.folder)
    frame.get_by_text(lead(tables)[0][:60]).first.wait_for()
    frame.locator("#explore[data-state=ready]").wait_for()


def test_an_adapter_is_found_in_the_registry_and_is_the_trained_one(
    ui: Ui, page: Any, study: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page.goto("about:blank")
    page.goto(f"{ui.mlflow}/#/models/pages-dpo/versions/1")
    page.get_by_text("train dpo seed=0 lr=1e-4", exact=True).first.wait_for()  # its source run
    monkeypatch.setenv("COLINEAR_HOME", str(ui.home))
    assert (
        fetch("models:/pages-dpo/1", tmp_path)
        == fetch(study.children["train dpo seed=0 lr=1e-4"], tmp_path) / "adapter"
    )


def open_view(ui: Ui, page: Any, key: str, query: str) -> None:
    """A saved view, narrowed to one study."""
    page.goto("about:blank")
    page.goto(f"{ui.mlflow}/#/experiments/{experiment(ui)}/runs?viewStateShareKey={key}&workflowType=machine_learning")
    field = page.get_by_role("combobox").or_(page.get_by_placeholder(re.compile("metrics.rmse"))).first
    page.locator("[col-id='params.`method`']").first.wait_for()
    field.fill(query)
    field.press("Enter")


def shown(page: Any, count: int, column: str) -> list[dict[str, str]]:
    """The table's rows once there are so many."""
    page.wait_for_function(f"(count) => ({ROWS})().filter((row) => row[{column!r}]).length === count", arg=count)
    found: list[dict[str, str]] = page.evaluate(ROWS)
    return found


def experiment(ui: Ui) -> str:
    return Store(f"sqlite:///{ui.home / 'mlflow.db'}").experiments[STUDIES]
