"""Studies of odd numbers through the command line, and what no page of theirs may hold."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.reporting.claims.rules import FAILS, HOLDS
from tasks.reporting.publish.write import write_report
from tasks.reporting.views.read import read_study
from tests.lab.browsing import ready
from tests.lab.study_runs import Lab, Study

SHORT = (
    "train.steps=3",
    "train.batch_size=8",
    "evaluation.n=6",
    "evaluation.max_new_tokens=4",
    "paths.n=4",
    "functions.n=4",
)
"""Settings of a study that is over in seconds but for the starts of its processes."""

NO_NUMBER = re.compile(r"(?<![\w/.-])[+-]?(?:nan|inf(?:inity)?)(?![\w/.-])", re.IGNORECASE)
_TAGS = re.compile(r"<script.*?</script>|<style.*?</style>|<[^>]*>", re.DOTALL)


def sums(problems: range, *verdicts: int, **more: Any) -> list[dict[str, Any]]:
    """Rows of rollouts: to each problem one completion a verdict, right (1) or wrong (0)."""
    return [
        {"problem_id": f"p{i}", "prompt": f"{i} + {i}?", "completion": f"{2 * i + 1 - right} [{k}]",
         "answer": str(2 * i), "reward": right, **more}
        for i in problems
        for k, right in enumerate(verdicts)
    ]  # fmt: skip


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """``rows`` as JSONL; NaN and infinities as Python writes them."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def study(lab: Lab, out: str, base: Path, rows: list[dict[str, Any]], *assignments: str) -> Study:
    """``colinear study --rollouts`` of ``rows`` on ``base``, with `SHORT` and then ``assignments``."""
    lab.home.parent.mkdir(parents=True, exist_ok=True)
    file = write_rows(lab.home.parent / f"{out}.jsonl", rows)
    settings = [f"model.base={base}", "replicates=", "init_replicates=", *SHORT, *assignments]
    return lab.run("--rollouts", str(file), *(word for one in settings for word in ("--set", one)), out=out)


def texts(folder: Path) -> Iterator[tuple[str, str]]:
    """(file, text) of all that a person reads of a report."""
    yield "report.html", _TAGS.sub(" ", (folder / "report.html").read_text(encoding="utf-8"))
    for path in [
        folder / "report.md",
        *folder.glob("*.json"),
        *folder.glob("tables/*.csv"),
        *folder.glob("figures/*.svg"),
    ]:
        text = path.read_text(encoding="utf-8")
        yield path.name, _TAGS.sub(" ", text) if path.suffix == ".svg" else text


def check_words(folder: Path) -> None:
    """No NaN or infinity stands as a number."""
    for name, text in texts(folder):
        found = NO_NUMBER.search(text)
        assert found is None, (name, text[max(found.start() - 80, 0) : found.end() + 40])


def check_page(folder: Path, scratch: Path) -> None:
    """`check_words`, no verdict from nothing, and no warning while the page is drawn again, byte for byte."""
    check_words(folder)
    check_claims(json.loads((folder / "claims.json").read_text(encoding="utf-8")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_report(read_study(folder), scratch)
    for name in ("report.md", "claims.json"):
        assert (scratch / name).read_bytes() == (folder / name).read_bytes()


def check_claims(claims: list[dict[str, Any]]) -> None:
    """A verdict stands on a number with an interval, or on McNemar's test."""
    assert len(claims) > 50
    for claim in claims:
        if claim["verdict"] in (HOLDS, FAILS):
            assert claim["measured"] is not None, claim
            assert claim["interval"] is not None or "McNemar" in claim["rule"], claim
            assert claim["n"], claim


def check_in_browser(browser: Any, page: Path, width: int) -> None:
    """The page fits, says nothing on the console, and its charts, where it has some, are drawn."""
    said: list[str] = []
    context = browser.new_context(viewport={"width": width, "height": 900})
    context.set_offline(True)
    tab = context.new_page()
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.goto(page.as_uri())
    if tab.locator("#explore").count():
        ready(tab)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width, page
    assert said == [], page
    context.close()
