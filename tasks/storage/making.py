"""A database that a kill cut off while it was made: the next start makes it again.

MLflow and Prefect make their tables one after the other and take a file that has only some of them for a database of
another version, for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def making(database: Path | None) -> Iterator[Callable[[], None]]:
    """Around what makes a database on its first start, under a lock that everybody else who does so takes as well.

    A mark beside the file says that it is not whole yet, until the given function is called. One that is found there is
    of somebody who was killed or gave up. None: a database that is not ours to make.
    """
    if database is None:
        yield lambda: None
        return
    mark = database.with_name(f"{database.name}.making")
    if mark.exists():
        for suffix in ("", "-journal", "-wal", "-shm"):  # SQLite's own; not the copies that somebody put beside it
            database.with_name(f"{database.name}{suffix}").unlink(missing_ok=True)
    if not database.exists():
        database.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    yield lambda: mark.unlink(missing_ok=True)
