"""Every reader of strangers' input, on damaged and made-up input: it takes what it can use, or says in a line why not.

``make test`` takes a sample; ``make test-fuzz`` sets ``$COLINEAR_FUZZ_CASES``, and a seed for each of its processes.
``python -m tests.fuzz.child FOLDER --cases N --seed S --only TARGET`` finds a failing case again.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]
SAMPLE = 1200
CASE_SECONDS = 0.5
"""Of the mean case, on a machine that is busy; 5 ms on a free core."""
SLOW = ("grader", "templates")
"""What starts processes or imports transformers; in the sample each has a few cases only."""


@pytest.mark.fuzz
@pytest.mark.parametrize("group", ["files and words", "grader and templates"])
def test_no_input_gets_a_traceback_a_hang_or_a_file_elsewhere(group: str, tmp_path: Path) -> None:
    cases = int(os.environ.get("COLINEAR_FUZZ_CASES") or SAMPLE)
    names = [name for name in TARGETS if (name in SLOW) == (group == "grader and templates")]
    words = [word for name in names for word in ("--only", name)]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fuzz.child", str(scratch), "--cases", str(cases),
         "--seed", os.environ.get("COLINEAR_FUZZ_SEED") or "0", *words],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    try:
        stdout, stderr = process.communicate(timeout=120 + CASE_SECONDS * cases)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 0, f"{stdout}\n{stderr[-6000:]}"
    found = [json.loads(line) for line in stdout.splitlines()]
    print("\n".join(map(str, found)))
    assert [one["target"] for one in found] == names
    for one in found:
        wanted = max(1, round(cases * TARGETS[one["target"]].share))
        assert one["cases"] >= 0.9 * wanted  # hypothesis does not try one case twice
        assert one.get("refused", 0) + one.get("accepted", 0) == one["cases"]
    assert sum(one.get("accepted", 0) for one in found) > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scratch"]
