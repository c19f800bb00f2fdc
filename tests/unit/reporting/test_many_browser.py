"""The page of many studies in a real browser, with the network off: Debian's chromium, which nothing here installs."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from tasks.reporting.many.joined import join
from tasks.reporting.many.studies import read_studies
from tasks.reporting.many.write import write_many
from tests.lab.many_studies import made, runs_of, write

pytestmark = pytest.mark.slow  # a browser

CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("browser")
    high = made("high", norms={"sft": 2.0, "rft": 2.2, "dpo": 0.2, "sft-order1": 2.1})
    low = made("low", runs_of(0, 1e-4), norms={"sft": 0.5, "rft": 0.6, "dpo": 0.1, "sft-order1": 0.4},
               settings={"train.lr": 1e-4})  # fmt: skip
    studies = [(name, write(root / name, tables)) for name, tables in (("high", high), ("low", low))]
    write_many(join(read_studies(studies)), root / "page")
    return root / "page"


def test_the_page_opens_without_a_complaint_fits_and_gives_its_numbers(folder: Path) -> None:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (make setup)")
    if not CHROMIUM.exists():
        pytest.skip(f"no browser: {CHROMIUM} is missing (apt-get install chromium)")
    said: list[str] = []
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        for width, scheme in ((1280, "light"), (390, "dark")):
            context: Any = browser.new_context(
                viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True
            )
            context.set_offline(True)
            page = context.new_page()
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.on("requestfailed", lambda request: said.append(request.url))
            page.goto((folder / "report.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") == width
            keys = [figure.get_attribute("id") for figure in page.query_selector_all("figure[id]")]
            assert keys == [f"figure-{key}" for key in
                            ("accuracy", "cosines", "rate-cosine-to-sft", "rate-norm", "rate-difference")]  # fmt: skip
            with page.expect_download() as download:
                page.click("[data-csv=figure-rate-norm]")
            got = list(csv.reader(Path(download.value.path()).read_text().splitlines()))
            beside = list(csv.reader((folder / "figure-rate-norm.csv").read_text().splitlines()))
            assert got[0] == beside[0]
            place = got[0].index("norm")
            assert [float(row[place]) for row in got[1:]] == [float(row[place]) for row in beside[1:]]
            assert sorted(float(row[place]) for row in got[1:]) == [0.1, 0.2, 0.4, 0.5, 0.6, 2.0, 2.1, 2.2]
        browser.close()
    assert said == []
