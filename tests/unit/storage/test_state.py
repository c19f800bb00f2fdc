"""Databases of another version, file stores and addresses in files: named in one line, with the way out."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tasks.core.errors import InputError
from tasks.core.login import prefect_address
from tasks.storage.state import check_databases, check_mlflow, revisions
from tests.lab.living import colinear

PLACES = {"mlflow": "mlflow.db", "prefect": "prefect/prefect.db"}


def database(path: Path, revision: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as made, made:
        made.execute("create table alembic_version (version_num text)")
        made.execute("insert into alembic_version values (?)", (revision,))
    return path


@pytest.fixture
def folder(state: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A working folder; no server and no database is named in the environment."""
    for name in ("PREFECT_API_URL", "PREFECT_HOME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.mark.parametrize("package", PLACES)
def test_a_database_of_a_newer_version_is_named(state: Path, folder: Path, package: str) -> None:
    path = database(state / PLACES[package], revisions(package)[0])
    check_databases()
    path.unlink()
    database(path, "f" * 12)
    with pytest.raises(InputError) as caught:
        check_databases()
    assert str(caught.value).startswith(f"{path}: its schema ffffffffffff is of a newer {package} than the installed")


def test_an_older_one_of_mlflow_is_to_be_upgraded_and_of_prefect_upgrades_itself(state: Path, folder: Path) -> None:
    older = {package: min(revisions(package)[1] - {revisions(package)[0]}) for package in PLACES}
    database(state / PLACES["prefect"], older["prefect"])
    check_databases()
    path = database(state / PLACES["mlflow"], older["mlflow"])
    with pytest.raises(InputError) as caught:
        check_databases()
    assert f"is older than the installed mlflow's {revisions('mlflow')[0]}; `mlflow db upgrade" in str(caught.value)
    assert f"sqlite:///{path}`" in str(caught.value)


@pytest.mark.parametrize("uri", ["./mlruns", "mlruns", "file:./mlruns", "file:///tmp/mlruns"])
def test_a_file_store_is_refused_with_a_database_in_its_place(folder: Path, uri: str) -> None:
    (folder / "mlruns").mkdir()
    with pytest.raises(InputError, match=rf"^MLFLOW_TRACKING_URI: {uri} is MLflow's file store"):
        check_mlflow(uri)
    check_mlflow("databricks")  # a name, not a folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "text"),
    [
        (".env", "OTHER=1\nexport PREFECT_API_URL='{}'  # the lab's\n"),
        ("prefect.toml", '[api]\nurl = "{}"\n'),
        ("pyproject.toml", '[tool.prefect.api]\nurl = "{}"\n'),
    ],
)
def test_a_file_that_names_a_server_is_named(folder: Path, name: str, text: str) -> None:
    """Prefect itself reads the address there; nobody answers at port 1."""
    assert prefect_address() == ("", "")
    (folder / name).write_text(text.format("http://127.0.0.1:1/api"))
    assert prefect_address() == (str(folder / name), "http://127.0.0.1:1/api")
    # Of a process of its own: Prefect reads its settings once.
    asked = (
        "from flows.servers import prefect_server as p\n"
        "try:\n    p.check()\nexcept Exception as e:\n    print(p.api(), e)"
    )
    root = str(Path(__file__).resolve().parents[3])
    done = subprocess.run(
        [sys.executable, "-c", asked], cwd=folder, env=os.environ | {"PYTHONPATH": root}, capture_output=True, text=True
    )
    api, said = done.stdout.strip().split(" ", 1)
    assert api == "http://127.0.0.1:1/api", done.stderr
    assert said.startswith(f"{folder / name}: no Prefect server answers at http://127.0.0.1:1/api (")
    assert said.endswith("start it, or take the line out")


@pytest.mark.slow
def test_the_command_ends_with_2_and_one_line(tmp_path: Path, folder: Path) -> None:
    path = database(tmp_path / "home" / "mlflow.db", "f" * 12)
    done = colinear("study", "smoke", home=tmp_path / "home", cwd=folder)
    assert done.returncode == 2, done.stderr[-2000:]
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("colinear: ")]
    assert f"{path}: its schema ffffffffffff is of a newer mlflow" in said


def test_a_transaction_that_was_killed_is_rolled_back_and_no_damage(folder: Path, state: Path) -> None:
    """``kill -9`` in the middle of a write leaves a journal that a reader may not roll back: that is not damage."""
    file = state / "mlflow.db"
    state.mkdir(exist_ok=True)
    with closing(sqlite3.connect(file)) as made, made:
        made.execute("create table t (x)")
        made.executemany("insert into t values (?)", [("kept",)] * 1000)
    killed = (
        "import os, sqlite3, sys\n"
        "d = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "d.execute('pragma cache_size = 1'); d.execute('begin')\n"
        "d.executemany('update t set x = ? where rowid = ?', [('lost' * 200, i) for i in range(1, 900)])\n"
        "os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", killed, str(file)], check=False).returncode == -9
    assert file.with_name("mlflow.db-journal").stat().st_size > 0
    check_mlflow(f"sqlite:///{file}")
    with closing(sqlite3.connect(file)) as found:
        assert found.execute("select distinct x from t").fetchall() == [("kept",)]
