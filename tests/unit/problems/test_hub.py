"""Data sets of the Hub, fetched by the real `datasets` client from a Hub on loopback."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from tests.lab.local_hub import local_hub

pytestmark = pytest.mark.slow  # a Hub on loopback, and processes that ask it

CARD = b"""---
configs:
- config_name: main
  data_files:
  - split: test
    path: main/test.jsonl
---
"""
ROWS = [
    {"question": "What is 1 + 1?", "answer": "One and one.\n#### 2"},
    {"question": "And 2 + 2?", "answer": "#### 4"},
]


def parquet(rows: list[dict[str, str]]) -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame(rows).write_parquet(buffer)
    return buffer.getvalue()


REPOSITORIES = {
    "org/lines": {"README.md": CARD, "main/test.jsonl": "\n".join(json.dumps(row) for row in ROWS).encode()},
    "org/parquet": {
        "README.md": b"",
        "data/train-00000-of-00001.parquet": parquet([{"problem": "3 * 3?", "gold": "9"}]),
    },
    "org/code": {"README.md": b"", "code.py": b"import os; os.abort()"},
}
ASK = """
import json, sys
from tasks.core.errors import InputError
from tasks.problems.benchmarks import open_benchmark

try:
    loaded = open_benchmark(sys.argv[1], json.loads(sys.argv[2]))
except InputError as error:
    print(json.dumps({"refused": str(error)}))
else:
    print(json.dumps(loaded.problems.frame.select("split", "question", "answer").rows()))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with local_hub(REPOSITORIES, tmp_path_factory.mktemp("hub")) as environment:
        yield environment


def ask(environment: dict[str, str], name: str, **fields: str) -> object:
    """What `open_benchmark` gives in a process of its own: the client reads its endpoint when it is imported."""
    done = subprocess.run(
        [sys.executable, "-c", ASK, name, json.dumps(fields)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_lines_of_a_named_configuration_and_split(hub: dict[str, str]) -> None:
    split = "org/lines:main:test"
    assert ask(hub, f"hub:{split}") == [[split, "What is 1 + 1?", "2"], [split, "And 2 + 2?", "4"]]


def test_parquet_with_columns_of_other_names(hub: dict[str, str]) -> None:
    split = "org/parquet:train"
    assert ask(hub, f"hub:{split}", question="problem", answer="gold") == [[split, "3 * 3?", "9"]]


@pytest.mark.parametrize("name", ["hub:org/lines:main:validation", "hub:org/lines:other:test", "hub:org/nothing"])
def test_what_the_hub_does_not_have_is_refused_in_one_line(hub: dict[str, str], name: str) -> None:
    answer = ask(hub, name)
    assert isinstance(answer, dict)
    assert answer["refused"].startswith(
        f"{name}{':test' if name.endswith('nothing') else ''}: not to be had from the Hub"
    )
    assert "\n" not in answer["refused"]


def test_code_of_a_data_set_is_not_run(hub: dict[str, str]) -> None:
    answer = ask(hub, "hub:org/code:test")
    assert isinstance(answer, dict)
    assert "not to be had from the Hub" in answer["refused"]


def test_what_was_fetched_is_there_without_the_hub(tmp_path: Path) -> None:
    with local_hub(REPOSITORIES, tmp_path) as environment:
        first = ask(environment, "hub:org/lines:main:test")
    assert ask(environment, "hub:org/lines:main:test") == first  # the server is gone
