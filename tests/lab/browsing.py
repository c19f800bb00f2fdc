"""A report in a real browser with the network off: Debian's chromium, which nothing here installs."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",  # root in a container has none
    "--disable-dev-shm-usage",  # whose /dev/shm is small
    "--disable-gpu",
    # A browser asks for much on its own account; a test of "asks for nothing" should see the page's requests only.
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--disable-quic",
]


@contextmanager
def launched() -> Iterator[Any]:
    """A browser; the test is skipped with its reason where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (make setup)")
    if not CHROMIUM.exists():
        pytest.skip(f"no browser: {CHROMIUM} is missing (apt-get install chromium)")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield chromium
        chromium.close()


@contextmanager
def visiting(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open a page offline; at the end it must have asked for nothing and complained of nothing."""
    contexts, said, asked = [], [], []

    def route(one: Any) -> None:
        if one.request.url.startswith("file:"):
            one.continue_()
        else:
            asked.append(one.request.url)
            one.abort()

    def go(path: Path, width: int = 1280, scheme: str = "light") -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True
        )
        contexts.append(context)
        context.set_offline(True)
        context.route("**/*", route)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        page.goto(path.as_uri())
        ready(page)
        return page

    yield go
    for context in contexts:
        context.close()
    assert (said, asked) == ([], [])


def ready(page: Any) -> None:
    page.wait_for_selector("#explore[data-state=ready]", timeout=30_000)


def pick(page: Any, **chosen: str) -> None:
    for name, label in chosen.items():
        page.select_option(f"#explore-{name.replace('_', '-')}", label=label)
    ready(page)


def scrub(page: Any, place: int) -> None:
    page.locator("#explore-layer").fill(str(place))
    ready(page)


def csv(page: Any, key: str) -> pl.DataFrame:
    button = page.locator(f"button.csv[data-csv='{key}']")
    with page.expect_download() as download:
        button.click()
    return pl.read_csv(io.BytesIO(Path(download.value.path()).read_bytes()), infer_schema_length=None)


def measured(folder: Path, metric: str, k: int | None = None) -> pl.DataFrame:
    """A metric of every pair over everything (layer null) and layer by layer, as the study's folder has it."""
    rows = pl.read_parquet(folder / "pair_metrics.parquet").filter(
        pl.col("module") == "*", pl.col("projection").is_null(), pl.col("k").eq_missing(k), metric=metric
    )
    return rows.select("run_a", "run_b", "layer", "value", "null").sort("layer", nulls_last=False)
