"""docs/tutorial.md: its script and its commands, run in its order in an empty folder, say and write what it shows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.lab.living import python

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
SCRIPT = re.search(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.removeprefix("$ ")
    for block in re.findall(r"^```console\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
    if line.startswith("$ ")
]
ROWS = re.findall(r"^(?:rft|dpo) +-?\d.*$", PAGE, re.MULTILINE)
SENTENCES = re.findall(r"^- (?:Cosine to|rft is|A method) .*$", PAGE, re.MULTILINE)
"""Of the blocks that show the terminal."""

pytestmark = pytest.mark.long

Said = dict[str, str]
"""Command -> what it printed."""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Said]:
    """The tutorial's folder after all of its commands, and their output."""
    folder = tmp_path_factory.mktemp("tutorial")
    assert SCRIPT is not None
    (folder / "make_adapters.py").write_text(SCRIPT[1])
    programs: dict[str, list[str]] = {"python": [], "colinear": ["-m", "flows.cli"]}
    output = {}
    for command in COMMANDS:
        program, *words = shlex.split(command)
        words, more = [*programs[program], *words], {"HF_HUB_OFFLINE": "1", "COLUMNS": "120"}
        done = python(*words, home=folder / ".colinear", cwd=folder, timeout=900, **more)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        output[command] = done.stdout
    return folder, output


def test_every_command_of_the_page_is_run(said: tuple[Path, Said]) -> None:
    assert [command.split()[:2] for command in said[1]] == [
        ["python", "make_adapters.py"], ["colinear", "compare"], ["colinear", "compare"], ["colinear", "study"],
        ["colinear", "compare"],
    ]  # fmt: skip


def test_the_terminal_shows_the_pages_rows_and_sentences(said: tuple[Path, Said]) -> None:
    printed = [line.split() for text in said[1].values() for line in text.splitlines()]

    assert (len(ROWS), len(SENTENCES)) == (3, 3)
    for line in (*ROWS, *SENTENCES):
        assert line.split() in printed


def test_each_command_that_names_a_folder_leaves_a_report_there(said: tuple[Path, Said]) -> None:
    for name in ("first", "second", "smoke", "third"):
        assert (said[0] / name / "report.html").stat().st_size > 10_000


def test_the_studys_adapters_are_compared_by_their_registered_names(said: tuple[Path, Said]) -> None:
    third = next(text for command, text in said[1].items() if "--out third" in command)

    assert [line.split()[0] for line in third.splitlines() if re.match(r"(sft|rft|dpo) ", line)] == [
        "sft",
        "rft",
        "dpo",
    ]
