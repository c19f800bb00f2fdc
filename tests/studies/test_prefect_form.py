"""Prefect's own pages in a real browser: open the deployment, fill the form, run it, see it end and its artifacts; run
it again and see what came from the cache."""

from __future__ import annotations

import base64
import re
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tasks.storage.store import STUDIES, Store
from tests.lab.browsing import launched
from tests.lab.living import Ui, living, until

pytestmark = [pytest.mark.slow, pytest.mark.long]
PATIENCE = 120_000
"""Milliseconds, on a machine that is busy."""

SUBMITS = 3


def test_smoke_is_started_from_the_form_and_ends_with_its_report(
    ui: Ui, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with launched() as browser, living("serve", home=ui.home, cwd=tmp_path) as serving:
        serving.wait_for("Ctrl-C stops them.")
        deployment = until(
            lambda: next((one for one in ui.ask("/deployments/filter", {}) if one["name"] == "smoke"), None)
        )
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        page.set_default_timeout(PATIENCE)
        login = base64.b64encode(ui.login.encode()).decode()
        page.add_init_script(f"localStorage.setItem('prefect-password', '{login}')")  # what its page of login does
        address = f"{ui.prefect}/deployments/deployment/{deployment['id']}"
        clicked = fill(page, address, "clicked")
        run = ended(ui, "clicked")
        assert run["state"]["name"] == "Completed", serving.said
        assert run["name"] == "study clicked seed=0"
        assert run["parameters"]["spec"]["tiny"]["hidden"] == 64  # the preset's, through the form
        reports = list((tmp_path / "runs").glob("clicked-*/report.html"))
        assert len(reports) == 1
        monkeypatch.setenv("COLINEAR_HOME", str(ui.home))
        started, told = first_training(ui, run), first_loss(Store(), "clicked")
        assert clicked < started < told < clicked + 1200
        with capsys.disabled():
            print(f"\nfrom Submit to the first training's start {started - clicked:.1f} s, to its loss in MLflow "
                  f"{told - clicked:.1f} s")  # fmt: skip

        page.goto(f"{ui.prefect}/runs/flow-run/{run['id']}")
        page.get_by_text("Artifacts", exact=True).click()
        page.get_by_text("headline", exact=True).first.click()
        page.get_by_text(re.compile("held-out", re.IGNORECASE)).first.wait_for()

        fill(page, address, "again")
        again = ended(ui, "again")
        assert again["state"]["name"] == "Completed", serving.said
        page.goto(f"{ui.prefect}/runs/flow-run/{again['id']}")
        page.get_by_text("Task Runs", exact=True).click()
        page.get_by_text("CacheHit", exact=True).first.wait_for()
        page.get_by_placeholder("Search by run name").fill("train sft seed=0 lr=1e-3")
        page.get_by_text("train sft seed=0 lr=1e-3", exact=True).first.click()
        page.wait_for_url("**/task-run/**")
        page.get_by_text("CacheHit", exact=True).first.wait_for()
        page.get_by_text(re.compile("found in MLflow run [0-9a-f]{32}")).first.wait_for()
        assert serving.stop() == 0


def fill(page: Any, address: str, name: str) -> float:
    """Run > Custom run: the preset with another name, then Submit; the time of that click."""
    from playwright.sync_api import TimeoutError as NothingSent
    from playwright.sync_api import expect

    page.goto(address)
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run").click()
    page.get_by_text("Embedded world (Optional)").wait_for()
    for text in ("Settings of the study", "Draws the LoRA initialisation that all methods share."):
        page.get_by_text(text).first.wait_for()
    field = page.locator("textarea").filter(visible=True).first
    assert field.input_value() == "smoke"
    field.fill(name)
    expect(field).to_have_value(name)  # the form may be drawn once more while it loads, and forget
    said = "nothing was sent"
    for _ in range(SUBMITS):  # on busy cores Prefect's server was seen to refuse the first; a person clicks again
        clicked = time.time()
        try:
            with page.expect_response("**/create_flow_run", timeout=PATIENCE / 4) as answer:
                page.get_by_role("button", name="Submit").click()
        except NothingSent:
            continue
        if answer.value.ok:
            return clicked
        said = f"{answer.value.status} {answer.value.text()}"
    pytest.fail(f"{SUBMITS} clicks on Submit started no run: {said}")


def ended(ui: Ui, name: str) -> dict[str, Any]:
    def look() -> Any:
        try:
            asked = ui.ask("/flow_runs/filter", {})
        except TimeoutError:  # on busy cores Prefect's server may take longer than one question waits
            return None
        runs = [one for one in asked if one["parameters"].get("spec", {}).get("name") == name]
        return next((one for one in runs if one["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED")), None)

    found: dict[str, Any] = until(look, 1200)
    return found


def first_training(ui: Ui, run: dict[str, Any]) -> float:
    """When the first of the study's trainings began, as Prefect has it."""
    asked = {"flow_runs": {"id": {"any_": [run["id"]]}}, "task_runs": {"name": {"like_": "train "}}}
    found = [one for one in ui.ask("/task_runs/filter", asked) if one["name"].startswith("train ")]  # not "pretrain "
    return min(datetime.fromisoformat(one["start_time"]).timestamp() for one in found)


def first_loss(store: Store, study: str) -> float:
    """When MLflow was told the first step of any of the study's trainings."""
    experiment = [store.experiments[STUDIES]]
    (parent,) = store.client.search_runs(experiment, f"tags.study = '{study}' and tags.kind = 'study'")
    children = store.client.search_runs(experiment, f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    histories = [store.client.get_metric_history(child.info.run_id, "loss") for child in children]
    return min(point.timestamp for history in histories for point in history) / 1000
