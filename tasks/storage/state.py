"""The state folder, looked into before anything is started: whether it can be written, and its databases are whole.

A database that was truncated or overwritten would otherwise show as a server that does not start, or as an error of SQL
in the middle of a study.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import re
import sqlite3
import tempfile
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from tasks.core import home, login
from tasks.core.errors import InputError
from tasks.core.login import prefect_address
from tasks.core.secrets import without_password

SQLITE = "sqlite:///"
DATABRICKS = ("databricks", "databricks-uc", "uc")
"""Tracking URIs of MLflow's that have no scheme and are no folder."""

MIGRATIONS = {"mlflow": "store/db_migrations/versions", "prefect": "server/database/_migrations/versions/sqlite"}
LARGEST = 2**30
"""Bytes up to which every page is looked at (93 MB: .07 s, out of the page cache); of a larger one its head."""

BUSY_SECONDS = 5.0


def check_writable() -> None:
    """Raise `InputError` where the state folder cannot be made or written to, or its login is not for us to read."""
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
    try:
        login.present(folder)
    except OSError as error:
        raise InputError(
            f"COLINEAR_HOME: {folder / login.FILE} cannot be read ({error.strerror}): the state folder is another "
            "user's; name one of your own"
        ) from None


def check_proxies() -> None:
    """Raise `InputError` where a proxy is set that no client here can speak to: Prefect's would not even begin."""
    for name, value in home.proxies().items():
        scheme = value.partition("://")[0].lower() if "://" in value else "http"
        if scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
            raise InputError(f"{name}: a SOCKS proxy needs the package socksio; install it, or unset the variable")


def check_databases() -> None:
    """Raise `InputError`, which names the file and the way out, where one that will be used is damaged."""
    check_mlflow(tracking_uri())
    if (path := prefect_database()) is not None:
        way_out = "move it away: only Prefect's history of runs is lost, finished stages are in MLflow's store"
        _check("Prefect", path, way_out)
        _check_schema(path, "prefect", "")


def tracking_uri() -> str:
    """MLflow's: what ``$MLFLOW_TRACKING_URI`` names, else a database in the state folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{home.home() / 'mlflow.db'}"


def mlflow_database(uri: str) -> Path | None:
    """The file behind MLflow's ``uri`` where that is the state folder's own, which whoever comes first makes."""
    own = home.home() / "mlflow.db"
    return own if uri == f"{SQLITE}{own}" else None


def prefect_database() -> Path | None:
    """The file of Prefect's embedded server; None where the environment names a server or a database instead."""
    if any("DATABASE_CONNECTION_URL" in name for name in os.environ) or prefect_address()[1]:
        return None
    return Path(os.environ.get("PREFECT_HOME") or home.home() / "prefect") / "prefect.db"


def check_mlflow(uri: str) -> None:
    """The same for MLflow's, where ``uri`` names a database of this machine; or a folder, MLflow's file store."""
    if urlsplit(uri).scheme in ("", "file") and uri not in DATABRICKS:
        folder = uri.removeprefix("file:").removeprefix("//")
        raise InputError(
            f"MLFLOW_TRACKING_URI: {uri} is MLflow's file store, which MLflow itself gave up; give "
            f"{SQLITE}{Path(folder) / 'mlflow.db'} (`mlflow migrate-filestore` takes its runs over), or unset the "
            "variable"
        )
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
    _check_schema(path, "mlflow", f"`mlflow db upgrade {SQLITE}{path}` brings it up (copy it first)")


@lru_cache(maxsize=2)
def revisions(package: str) -> tuple[str, set[str]]:
    """The newest revision of a package's database schema, and all; its migrations are read, not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return "", set()
    below: dict[str, str] = {}
    for path in (Path(spec.origin).parent / MIGRATIONS[package]).glob("*.py"):
        text = path.read_text()
        found = {
            key: re.search(rf"^{key}\b[^=\n]*=\s*['\"](\w+)['\"]", text, re.MULTILINE)
            for key in ("revision", "down_revision")
        }
        if found["revision"]:
            below[found["revision"][1]] = found["down_revision"][1] if found["down_revision"] else ""
    heads = set(below) - set(below.values())
    return (heads.pop() if len(heads) == 1 else ""), set(below)


def _check_schema(path: Path, package: str, upgrade: str) -> None:
    """Raise `InputError` where a database is not of the installed ``package``. ``upgrade``: what to do with an older
    one; empty where the package brings it up by itself."""
    if not path.is_file() or path.with_name(f"{path.name}.making").exists():
        return
    try:
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)
        ) as database:
            found = database.execute("select version_num from alembic_version").fetchone()
    except sqlite3.DatabaseError:  # no such table: nothing of theirs has been made in it yet; or somebody works with it
        return
    newest, known = revisions(package)
    revision = str(found[0]) if found else newest
    if not newest or revision == newest or (revision in known and not upgrade):
        return
    if revision in known:
        raise InputError(f"{path}: its schema {revision} is older than the installed {package}'s {newest}; {upgrade}")
    raise InputError(
        f"{path}: its schema {revision} is of a newer {package} than the installed one; install that one, or name "
        "another folder with COLINEAR_HOME, or move it away"
    )


_TO_ROLL_BACK = "attempt to write a readonly database"
"""SQLite's words where a journal must be rolled back first, which a reader may not."""


def _looked_at(path: Path, looks: str, mode: Literal["ro", "rw"]) -> str:
    """What the pragma ``looks`` says, or `_TO_ROLL_BACK`.

    Through SQLite, not past it: it locks, and knows what of a write-ahead log belongs to the file.
    """
    with closing(
        sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=BUSY_SECONDS)
    ) as database:
        try:
            return str((database.execute(looks).fetchone() or ["it has no tables"])[0])
        except sqlite3.OperationalError as error:
            if mode == "ro" and str(error) == _TO_ROLL_BACK:
                return _TO_ROLL_BACK
            raise


def _check(whose: str, path: Path, way_out: str) -> None:
    half_made = path.with_name(f"{path.name}.making").exists()  # see `tasks.storage.making`: it is made anew
    if not path.is_file() or not path.stat().st_size or half_made:
        return
    said, looks = "ok", "pragma quick_check(1)" if path.stat().st_size <= LARGEST else "select 'ok' from sqlite_master"
    try:
        said = _looked_at(path, looks, "ro")
        if said == _TO_ROLL_BACK:  # a writer was killed in the middle of its transaction: who may write undoes it
            said = _looked_at(path, looks, "rw")
    except sqlite3.DatabaseError as error:
        if "locked" not in str(error):  # else somebody works with it, so it can be worked with
            said = str(error)
    if said != "ok":
        raise InputError(f"{path}: {whose}'s database is damaged ({' '.join(said.split())[:120]}); {way_out}")


def deleted_experiment(name: str, number: str, uri: str) -> str:
    """What to say of an experiment that somebody deleted on MLflow's pages: it is hidden, and its name taken."""
    way_back = f"MLFLOW_TRACKING_URI={without_password(uri)} mlflow experiments restore -x {number}"
    return f"the experiment {name} was deleted, which hides what studies have computed; `{way_back}` brings it back"
