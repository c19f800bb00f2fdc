"""A temporary folder whose name is too long for the path of a socket: workers start all the same."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tasks.core import home
from tests.lab.living import ROOT, environment

WORK = """
import sys
from pathlib import Path
from tasks.workers.devices import run_unpinned
from tests.unit.core.test_short_sockets import where
if __name__ == "__main__":
    print(*run_unpinned(where, {}, log=Path(sys.argv[1])))
"""


def where(*, progress: object) -> list[str]:
    """In a worker: where temporary files go there, and vLLM's sockets."""
    return [tempfile.gettempdir(), os.environ["VLLM_RPC_BASE_PATH"]]


@pytest.mark.slow
def test_a_worker_runs_where_the_temporary_folder_has_a_long_name(tmp_path: Path) -> None:
    folder = tmp_path / ("t" * 120)
    folder.mkdir()
    given = environment(tmp_path / "home", TMPDIR=str(folder))
    done = subprocess.run(
        [sys.executable, "-c", WORK, str(tmp_path / "log")], cwd=ROOT, env=given, text=True, capture_output=True,
        timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    temporary, sockets = done.stdout.split()
    assert temporary == str(folder)  # what is large still goes where the user wants it
    assert len(sockets) <= home.SOCKET_FOLDER_BYTES


def test_a_short_name_is_kept_and_a_long_one_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/var/tmp")
    assert home.socket_folder() == Path("/tmp")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("t" * 120)))
    assert home.socket_folder() == Path("/var/tmp")
