"""What stages left in the state folder that never finished, or never sent their output: checkpoints, answers, output.

A stage deletes its own when its output is safe. What stays is for the next try; of a study that is never run again it
would stay for ever.
"""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.core import home

FOLDERS = ("checkpoints", "partial", "outbox", "staging")
DAYS = 14


def drop_leftovers(days: float = DAYS) -> list[str]:
    """Delete what nobody has written to for ``days``, unless its stage is at work; returns the deleted names.

    Files and folders are named by the digest of their stage's key, whose lock the stage holds as long as it works.
    """
    oldest = time.time() - days * 86_400
    dropped = []
    for path in [path for name in FOLDERS for path in sorted(home.subfolder(name).iterdir())]:
        digest = path.name.partition(".")[0]
        try:
            with FileLock(home.subfolder("locks") / f"{digest}.lock", timeout=0, thread_local=False):
                if _last_written(path) < oldest:
                    _delete(path)
                    dropped.append(path.name)
        except (Timeout, OSError):  # at work, or another study deletes it: nothing that a study should fail for
            continue
    for path in sorted(home.subfolder("downloads").glob("partial-*")):  # half a download: nobody reads it
        with suppress(OSError):
            if _last_written(path) < oldest:
                _delete(path)
                dropped.append(path.name)
    return dropped


def _last_written(path: Path) -> float:
    return max(one.stat().st_mtime for one in [path, *path.rglob("*")])


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
