"""Logs that lm-evaluation-harness and inspect wrote themselves, of two networks that answered them, compared by
``colinear accuracy``.

``make test-logs`` installs both at fixed versions into an environment of their own; fails where that is not there.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flows.cli.main import main

if TYPE_CHECKING:
    from tests.real.served import Taught

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("COLINEAR_LOGS_PYTHON", str(ROOT / ".venv-logs" / "bin" / "python"))

RIGHT = {"first": "11111111110000000000", "second": "11110000001122222222"}
"""What two networks are taught of 20 problems, 1: the answer as it is asked for, 0: another, 2: in a sentence. By the
strict filter 10 against 6: 6 right only in the first, 2 only in the second. Looking hard, the second has the 8 others
as well."""


def taught(right: str) -> dict[str, str]:
    said = {"1": "#### {}", "2": "It is {}", "0": "#### -{}"}
    return {f"{i} + 2?": said[one].format(i + 2) for i, one in enumerate(right)}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, base_model: Path) -> dict[str, Taught]:
    """A network that was taught the first's answers, and that one trained further on the second's."""
    from tests.real.served import Taught

    both = {name: Taught(base_model) for name in RIGHT}
    assert both["first"].teach(taught(RIGHT["first"])) > 0
    both["second"].model.load_state_dict(both["first"].model.state_dict())
    assert both["second"].teach(taught(RIGHT["second"])) > 0
    return both


def written(models: dict[str, Taught], tool: str, folder: Path) -> list[tuple[str, str, str]]:
    """The logs of both models in ``folder``; what the models were asked, and what they said."""
    from tests.real.served import serving

    asked: list[tuple[str, str, str]] = []
    with serving(models, asked) as address:
        for name in RIGHT:
            program = [PYTHON, str(ROOT / "tests" / "real" / "write_logs.py"), tool, str(folder), name, address, "20"]
            done = subprocess.run(program, cwd=folder, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-2000:]
    return asked


def logs_in(folder: Path, pattern: str) -> list[str]:
    files = {name: [*(folder / name).rglob(pattern)] for name in RIGHT}
    assert [len(found) for found in files.values()] == [1, 1]
    return [f"{name}={found[0]}" for name, found in files.items()]


def compared(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["accuracy", *words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def counts(found: dict[str, Any]) -> tuple[int, int, int]:
    (pair,) = found["pairs"]
    return pair["n"], pair["only_a"], pair["only_b"]


def test_logs_of_lm_evaluation_harness(
    models: dict[str, Taught], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = written(models, "harness", tmp_path)
    assert Counter(name for name, _, _ in asked) == {"first": 20, "second": 20}
    assert ("second", "Question: 12 + 2?\nAnswer:", " It is 14") in asked
    logs = logs_in(tmp_path, "samples_sums_*.jsonl")
    strict = compared(capsys, *logs)
    assert counts(strict) == (20, 6, 2)
    assert strict["notes"][0] == "first, second: lm-evaluation-harness, exact_match, filter strict-match"
    assert strict["warnings"] == []
    assert counts(compared(capsys, *logs, "--filter", "flexible-extract")) == (20, 6, 10)
    named = compared(capsys, *(log.split("=")[1] for log in logs))
    assert [model["model"] for model in named["models"]] == ["first", "second"]  # the tool's own folders


def test_logs_of_inspect(models: dict[str, Taught], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = written(models, "inspect", tmp_path)
    assert Counter(name for name, _, _ in asked) == {"first": 80, "second": 80}  # two epochs, in two formats
    for kind in ("eval", "json"):
        found = compared(capsys, *logs_in(tmp_path, f"*.{kind}"))
        assert counts(found) == (20, 6, 2)
        assert [(model["k"], model["accuracy"]) for model in found["models"]] == [(2, 50.0), (2, 30.0)]
        assert found["notes"][0] == "first, second: inspect, includes"
