"""Logs that lm-evaluation-harness and inspect wrote themselves, compared by ``colinear accuracy``.

``make test-logs`` installs both at fixed versions into an environment of their own; fails where that is not there.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from flows.cli.main import main

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("COLINEAR_LOGS_PYTHON", str(ROOT / ".venv-logs" / "bin" / "python"))

RIGHT = {"first": "11111111110000000000", "second": "11110000001122222222"}
"""20 problems. By the strict filter 10 against 6: 6 right only in the first, 2 only in the second. Looking hard, the
second has the 8 others as well."""


def written(tool: str, folder: Path, pattern: str) -> list[str]:
    """The logs of both models, by their names."""
    for name, right in RIGHT.items():
        program = [PYTHON, str(ROOT / "tests" / "real" / "write_logs.py"), tool, str(folder), name, right]
        done = subprocess.run(program, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
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


def test_logs_of_lm_evaluation_harness(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs = written("harness", tmp_path, "samples_sums_*.jsonl")
    strict = compared(capsys, *logs)
    assert counts(strict) == (20, 6, 2)
    assert strict["notes"][0] == "first, second: lm-evaluation-harness, exact_match, filter strict-match"
    assert strict["warnings"] == []
    assert counts(compared(capsys, *logs, "--filter", "flexible-extract")) == (20, 6, 10)
    named = compared(capsys, *(log.split("=")[1] for log in logs))
    assert [model["model"] for model in named["models"]] == ["org__first", "org__second"]  # the tool's own folders


@pytest.mark.parametrize("kind", ["eval", "json"])
def test_logs_of_inspect(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = compared(capsys, *written("inspect", tmp_path, f"*.{kind}"))
    assert counts(found) == (20, 6, 2)
    assert [(model["k"], model["accuracy"]) for model in found["models"]] == [(2, 50.0), (2, 30.0)]
    assert found["notes"][0] == "first, second: inspect, includes"
