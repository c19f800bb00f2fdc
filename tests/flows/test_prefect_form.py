"""Prefect's own pages in a real browser: open the deployment, fill the form, run it, see it end and its artifacts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.flows.living import Ui, living, until
from tests.reporting.browsing import launched

pytestmark = [pytest.mark.slow, pytest.mark.long]
PATIENCE = 120_000
"""Milliseconds, on a machine that is busy."""


def test_smoke_is_started_from_the_form_and_ends_with_its_report(ui: Ui, tmp_path: Path) -> None:
    with launched() as browser, living("serve", home=ui.home, cwd=tmp_path) as serving:
        serving.wait_for("Ctrl-C stops them.")
        deployment = until(
            lambda: next((one for one in ui.ask("/deployments/filter", {}) if one["name"] == "smoke"), None)
        )
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        page.set_default_timeout(PATIENCE)
        fill(page, f"{ui.prefect}/deployments/deployment/{deployment['id']}")
        run = ended(ui)
        assert run["state"]["name"] == "Completed", serving.said
        assert run["name"] == "study clicked seed=0"
        assert run["parameters"]["spec"]["tiny"]["hidden"] == 64  # the preset's, through the form
        reports = list((tmp_path / "runs").glob("clicked-*/report.html"))
        assert len(reports) == 1

        page.goto(f"{ui.prefect}/runs/flow-run/{run['id']}")
        page.get_by_text("Artifacts", exact=True).click()
        page.get_by_text("headline", exact=True).first.click()
        page.get_by_text(re.compile("held-out", re.IGNORECASE)).first.wait_for()
        assert serving.stop() == 0


def fill(page: Any, address: str) -> None:
    """Run > Custom run: the preset with another name, then Submit."""
    page.goto(address)
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run").click()
    page.get_by_text("Embedded world (Optional)").wait_for()
    assert page.get_by_text("Draws the LoRA initialisation that all methods share.").is_visible()
    name = page.locator("textarea").filter(visible=True).first
    assert name.input_value() == "smoke"
    name.fill("clicked")
    page.get_by_role("button", name="Submit").click()


def ended(ui: Ui) -> dict[str, Any]:
    def look() -> Any:
        runs = [
            one for one in ui.ask("/flow_runs/filter", {}) if one["parameters"].get("spec", {}).get("name") == "clicked"
        ]
        return next((one for one in runs if one["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED")), None)

    found: dict[str, Any] = until(look, 1200)
    return found
