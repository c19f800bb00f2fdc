"""The state folder, looked into before anything is started: whether it can be written, and its databases are whole.

A database that was truncated or overwritten would otherwise show as a server that does not start, or as an error of SQL
in the middle of a study.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from tasks import home
from tasks.contracts import InputError
from tasks.secrets import without_password

SQLITE = "sqlite:///"
LARGEST = 2**30
"""Bytes up to which every page is looked at (93 MB: .07 s, out of the page cache); of a larger one its head."""

BUSY_SECONDS = 5.0


def check_writable() -> None:
    """Raise `InputError` where the state folder cannot be made or written to."""
    folder = Path(os.environ.get("COLINEAR_HOME") or ".colinear").expanduser().absolute()
    try:
        with tempfile.TemporaryFile(dir=home.home()) as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        ways_out = "make room there" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "let it be written"
        raise InputError(
            f"COLINEAR_HOME: {folder} cannot be written ({error.strerror}); {ways_out}, or name another folder"
        ) from None


def check_databases() -> None:
    """Raise `InputError`, which names the file and the way out, where one that will be used is damaged."""
    check_mlflow(tracking_uri())
    if (path := prefect_database()) is not None:
        way_out = "move it away: only Prefect's history of runs is lost, finished stages are in MLflow's store"
        _check("Prefect", path, way_out)


def tracking_uri() -> str:
    """MLflow's: what ``$MLFLOW_TRACKING_URI`` names, else a database in the state folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{home.home() / 'mlflow.db'}"


def mlflow_database(uri: str) -> Path | None:
    """The file behind MLflow's ``uri`` where that is the state folder's own, which whoever comes first makes."""
    own = home.home() / "mlflow.db"
    return own if uri == f"{SQLITE}{own}" else None


def prefect_database() -> Path | None:
    """The file of Prefect's embedded server; None where the environment names a server or a database instead."""
    if any("DATABASE_CONNECTION_URL" in name or name == "PREFECT_API_URL" for name in os.environ):
        return None
    return Path(os.environ.get("PREFECT_HOME") or home.home() / "prefect") / "prefect.db"


def check_mlflow(uri: str) -> None:
    """The same for MLflow's, where ``uri`` names a database of this machine."""
    if not uri.startswith(SQLITE):
        return
    path = Path(uri.removeprefix(SQLITE))
    way_out = (
        f"put a copy back, or try `sqlite3 {path} .recover`, or move it away: studies then begin anew (reports that "
        "are written stay as they are)"
    )
    artifacts = path.parent / "artifacts"
    if path.is_file() and not path.stat().st_size and artifacts.is_dir() and any(artifacts.glob("*/*")):
        raise InputError(f"{path}: MLflow's database is empty, but there are artifacts of it; {way_out}")
    _check("MLflow", path, way_out)


def _check(whose: str, path: Path, way_out: str) -> None:
    half_made = path.with_name(f"{path.name}.making").exists()  # see `tasks.storage.making`: it is made anew
    if not path.is_file() or not path.stat().st_size or half_made:
        return
    said, looks = "ok", "pragma quick_check(1)" if path.stat().st_size <= LARGEST else "select 'ok' from sqlite_master"
    try:
        # Through SQLite, not past it: it locks, and knows what of a write-ahead log belongs to the file.
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)
        ) as database:
            said = (database.execute(looks).fetchone() or ["it has no tables"])[0]
    except sqlite3.DatabaseError as error:
        if "locked" not in str(error):  # else somebody works with it, so it can be worked with
            said = str(error)
    if said != "ok":
        raise InputError(f"{path}: {whose}'s database is damaged ({' '.join(said.split())[:120]}); {way_out}")


def deleted_experiment(name: str, number: str, uri: str) -> str:
    """What to say of an experiment that somebody deleted on MLflow's pages: it is hidden, and its name taken."""
    way_back = f"MLFLOW_TRACKING_URI={without_password(uri)} mlflow experiments restore -x {number}"
    return f"the experiment {name} was deleted, which hides what studies have computed; `{way_back}` brings it back"
