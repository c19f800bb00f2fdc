"""Somebody's `tasks.py` on the path hides ours: the command says which file, in one line."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.lab.living import ROOT


def command(tmp_path: Path, first: str, *words: str) -> subprocess.CompletedProcess[str]:
    """The console script that pip makes of pyproject.toml, with ``first`` on PYTHONPATH before the installation."""
    entry = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["colinear"]
    module, _, function = entry.partition(":")
    script = tmp_path / "bin" / "colinear"
    script.parent.mkdir()
    script.write_text(f"import sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    path = os.pathsep.join([first, str(ROOT)]) if first else str(ROOT)
    return subprocess.run(
        [sys.executable, str(script), *words], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, text=True,
        capture_output=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["tasks.py", "flows.py", "deployments.py", "tasks/__init__.py"])
def test_a_file_that_hides_a_package_of_ours_is_named(tmp_path: Path, name: str) -> None:
    file = tmp_path / "theirs" / name
    file.parent.mkdir(parents=True)
    file.write_text("print('not ours')\n")
    done = command(tmp_path, str(tmp_path / "theirs"), "--help")
    package = name.partition("/")[0].removesuffix(".py")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"colinear: {file} hides colinear's own package `{package}`: take its folder off PYTHONPATH, rename it, or run "
        "from another folder\n"
    )


def test_a_folder_without_an_init_hides_nothing_that_is_on_the_path(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "todo.txt").write_text("")
    done = command(tmp_path, ".", "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: colinear" in done.stdout
