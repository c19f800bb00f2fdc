"""Damaged folders of finished studies, and damaged databases: refused in one line that names the file."""

from __future__ import annotations

import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tasks.core.errors import InputError
from tasks.reporting.many.studies import read_studies
from tasks.reporting.publish.write import write_report
from tasks.reporting.views.read import read_study
from tasks.reporting.views.study import SCHEMAS
from tasks.storage.state import check_databases, check_mlflow
from tests.lab.many_studies import made, runs_of

ROOT = Path(__file__).parents[2]
READ_BACK = ("study.json", "claims.json", *(f"{name}.parquet" for name in SCHEMAS))
AGAIN = "run the study again, which makes its report anew"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two studies' folders as `colinear study` writes them."""
    folder = tmp_path_factory.mktemp("written")
    write_report(made("zero"), folder / "zero")
    write_report(made("one", runs_of(1), settings={"seed": 1}), folder / "one")
    return folder


@pytest.fixture
def studies(written: Path, tmp_path: Path) -> tuple[Path, Path]:
    for name in ("zero", "one"):
        shutil.copytree(written / name, tmp_path / name)
    return tmp_path / "zero", tmp_path / "one"


def refusal(*folders: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_studies([(str(folder), folder) for folder in folders])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_sound_folders_are_joined_and_pages_may_be_edited(studies: tuple[Path, Path]) -> None:
    """What is for people is not read back, so a note in it is nobody's business."""
    (studies[0] / "report.md").write_text("my notes")
    shutil.rmtree(studies[0] / "figures")
    assert [study.label for study in read_studies([(str(folder), folder) for folder in studies])] == ["zero", "one"]


@pytest.mark.parametrize("draw", range(3 * len(READ_BACK)))
def test_a_damaged_folder_is_refused_by_its_file(studies: tuple[Path, Path], draw: int) -> None:
    rng = random.Random(f"report {draw}")
    name, kind = READ_BACK[draw // 3], ("flip", "truncate", "swap")[draw % 3]
    path, other = studies[1] / name, studies[0] / name
    content = path.read_bytes()
    if kind == "swap":  # the file of another study: whole, of the right schema, of other numbers
        if content == other.read_bytes():
            path.unlink()
        else:
            shutil.copy(other, path)
    elif kind == "truncate":
        path.write_bytes(content[: rng.randrange(1, len(content) - 2)])
    else:
        place = next(i for i in iter(lambda: rng.randrange(len(content)), -1) if content[i : i + 1].isalnum())
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    if kind == "swap" and name == "study.json":  # agrees with itself, and not with the frames beside it
        assert refusal(*studies).startswith(f"{studies[1]}: ")
        assert refusal(*studies).endswith(
            f"is damaged: it does not have the digest that study.json has for it; {AGAIN}"
        )
        return
    said = refusal(*studies)
    assert said.startswith(f"{studies[1]}: {name} ")
    assert said.endswith((AGAIN, "run the study again"))
    with pytest.raises((InputError, ValueError)):
        read_study(studies[1])


def test_the_command_refuses_it_with_exit_code_2(
    studies: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], state: Path
) -> None:
    from flows.cli.main import main

    path = studies[1] / "pair_metrics.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert main(["report", *map(str, studies), "--out", str(studies[0].parent / "page")]) == 2
    assert capsys.readouterr().err == (
        f"colinear: {studies[1]}: pair_metrics.parquet is damaged: it does not have the digest that study.json has for "
        f"it; {AGAIN}\n"
    )
    assert not (studies[0].parent / "page").exists()


# --- databases -------------------------------------------------------------------------------------------------------


def write_database(path: Path, rows: int = 400) -> Path:
    """A real one, of some pages."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("create table tags (run text, key text, value text)")
        database.execute("create index by_run on tags (run)")
        database.executemany(
            "insert into tags values (?, ?, ?)", [(f"run {i}", "cache.key", "x" * 100) for i in range(rows)]
        )
    return path


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def cut_within_a_page(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 + 777)


def overwrite_the_head(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"\0" * 4096)


def overwrite_a_page(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(5 * 4096)
        file.write(random.Random(0).randbytes(4096))


def replace_with_text(path: Path) -> None:
    path.write_text("404 not found\n" * 100)


SPOIL: tuple[Callable[[Path], None], ...] = (
    cut, cut_within_a_page, overwrite_the_head, overwrite_a_page, replace_with_text,
)  # fmt: skip
PLACES = {"MLflow": "mlflow.db", "Prefect": "prefect/prefect.db"}


@pytest.mark.parametrize("spoil", SPOIL)
@pytest.mark.parametrize("whose", PLACES)
def test_a_damaged_database_is_named_with_the_way_out(
    state: Path, monkeypatch: pytest.MonkeyPatch, whose: str, spoil: Callable[[Path], None]
) -> None:
    monkeypatch.delenv("PREFECT_HOME", raising=False)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    path = write_database(state / PLACES[whose])
    check_databases()
    spoil(path)
    with pytest.raises(InputError) as caught:
        check_databases()
    assert str(caught.value).startswith(f"{path}: {whose}'s database is damaged (")
    assert "move it away" in str(caught.value)
    assert "\n" not in str(caught.value)
    path.unlink()
    check_databases()


def test_a_database_by_a_relative_path_is_looked_into_as_well(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``sqlite:///mlflow.db`` is how MLflow itself writes it."""
    path = write_database(state / "mlflow.db")
    monkeypatch.chdir(state)
    check_mlflow("sqlite:///mlflow.db")
    cut(path)
    with pytest.raises(InputError, match="MLflow's database is damaged"):
        check_mlflow("sqlite:///mlflow.db")


def test_an_emptied_database_with_artifacts_is_no_fresh_one(state: Path) -> None:
    path = write_database(state / "mlflow.db")
    (state / "artifacts" / "colinear" / "run").mkdir(parents=True)
    os.truncate(path, 0)
    with pytest.raises(InputError, match="MLflow's database is empty, but there are artifacts of it"):
        check_databases()


def test_a_database_that_somebody_writes_to_is_not_called_damaged(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.storage.state.BUSY_SECONDS", 0.1)
    path = write_database(state / "mlflow.db")
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("begin exclusive")
        with closing(sqlite3.connect(path, timeout=0)) as reader, pytest.raises(sqlite3.OperationalError, match="lock"):
            reader.execute("select 1 from sqlite_master")
        check_databases()


@pytest.mark.parametrize("whose", ["MLflow", pytest.param("Prefect", marks=pytest.mark.faults)])
def test_a_study_on_a_damaged_database_is_refused_at_once(state: Path, whose: str) -> None:
    path = write_database(state / PLACES[whose])
    cut(path)
    environment = {**os.environ, "COLINEAR_HOME": str(state)}
    for name in ("PREFECT_HOME", "PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "study", "smoke"], cwd=ROOT, env=environment, text=True,
        capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(f"colinear: {path}: {whose}'s database is damaged (")
    assert done.stderr.count("\n") == 1


def test_an_experiment_that_was_deleted_on_mlflows_pages_is_brought_back_as_said(state: Path) -> None:
    from tasks.storage.store import CACHE, Store

    store = Store()
    store.client.delete_experiment(store.experiments[CACHE])
    with pytest.raises(InputError, match=r"^MLflow: the experiment colinear\.cache was deleted") as caught:
        Store()
    [command] = re.findall(r"`(.+)`", str(caught.value))
    folder = Path(sys.executable).parent
    subprocess.run(command, shell=True, check=True, env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"})
    assert Store().experiments == store.experiments
