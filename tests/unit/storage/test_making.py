"""Databases that were never whole are made again; whole ones are left alone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.storage.making import making

ROOT = Path(__file__).parents[3]

OPEN = """
from tasks.storage.store import Store
print(*Store().experiments)
"""


def test_a_whole_one_is_kept(tmp_path: Path) -> None:
    database = tmp_path / "a.db"
    with making(database) as made:
        database.write_text("whole")
        made()
    with making(database):
        assert database.read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["a.db"]


def test_one_that_was_there_before_is_kept_whatever_comes_of_the_start(tmp_path: Path) -> None:
    database = tmp_path / "a.db"
    database.write_text("old")
    with pytest.raises(OSError, match="port"), making(database):
        raise OSError("port in use")
    with making(database):
        assert database.read_text() == "old"


def test_a_half_made_one_goes_with_what_sqlite_left_beside_it(tmp_path: Path) -> None:
    database = tmp_path / "a.db"
    with making(database):  # never said to be whole
        for name in ("a.db", "a.db-wal", "a.db-shm", "b.db"):
            (tmp_path / name).write_text("half")
    with making(database) as made:
        assert not database.exists()
        database.write_text("whole")
        made()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.db", "b.db"]


@pytest.mark.slow
def test_a_store_killed_while_it_is_made_opens_the_next_time(tmp_path: Path) -> None:
    """MLflow alone never opens such a file again: "out-of-date database schema (found version None ...)"."""
    environment = {**os.environ, "COLINEAR_HOME": str(tmp_path / "home")}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-c", OPEN]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    database = tmp_path / "home" / "mlflow.db"
    while process.poll() is None and not (database.exists() and database.stat().st_size > 0):
        time.sleep(0.01)
    time.sleep(random.Random(0).uniform(0, 0.2))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert (tmp_path / "home" / "mlflow.db.making").exists()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 2
    assert not (tmp_path / "home" / "mlflow.db.making").exists()


def test_a_copy_that_somebody_put_beside_it_stays(tmp_path: Path) -> None:
    database, copy = tmp_path / "mlflow.db", tmp_path / "mlflow.db.bak"
    copy.write_text("all that was computed")
    with making(database):  # killed before it was whole
        database.write_text("half")
        database.with_name("mlflow.db-journal").write_text("half")
    with making(database) as made:
        assert sorted(path.name for path in tmp_path.iterdir()) == ["mlflow.db.bak", "mlflow.db.making"]
        database.write_text("whole")
        made()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlflow.db", "mlflow.db.bak"]
