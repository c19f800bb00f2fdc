"""State folders whose databases are made already: Prefect's and MLflow's take ten seconds of a core, once a session."""

from __future__ import annotations

import atexit
import os
import shutil
import sqlite3
import tempfile
from contextlib import closing
from functools import cache
from pathlib import Path

from tests.lab.living import python

MAKE = """
from tasks.core import home
home.quiet_environment()
from flows.servers import embedded
from tasks.storage.store import open_store
embedded.prepare()
open_store()
"""
DATABASES = ("mlflow.db", "prefect/prefect.db")


def furnished(home: Path) -> Path:
    """``home`` with the databases that a first command would make, in which nothing ran; made where it is not there."""
    made = _made()
    for name in DATABASES:
        (home / name).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with closing(sqlite3.connect(made / name)) as source, closing(sqlite3.connect(home / name)) as copy:
            source.backup(copy)
    with closing(sqlite3.connect(home / "mlflow.db")) as database, database:
        here = "artifact_location = replace(artifact_location, ?, ?)"
        database.execute(f"update experiments set {here}", (str(made), str(home)))
    return home


@cache
def _made() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="colinear-home-", dir=os.environ.get("PYTEST_DEBUG_TEMPROOT")))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    home = folder / "home"
    done = python("-c", MAKE, home=home, TMPDIR=str(folder))
    assert done.returncode == 0, done.stderr
    return home
