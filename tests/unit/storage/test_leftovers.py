"""Old checkpoints and partial answers: which are deleted, and which are not."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tasks.core import home
from tasks.storage.leftovers import drop_leftovers
from tasks.storage.store import StageKey, Store

DAY = 86_400


def leave(name: str, days: float) -> Path:
    """A folder with a file in it, or a file, of that age."""
    path = home.home() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [path] if path.suffix else [path / "checkpoint-5" / "weights", path / "checkpoint-5", path]
    files[0].parent.mkdir(parents=True, exist_ok=True)
    files[0].write_text("x")
    for one in files:
        os.utime(one, (time.time() - days * DAY,) * 2)
    return path


@pytest.mark.usefixtures("state")
def test_only_what_is_old_and_not_at_work_is_deleted() -> None:
    working = StageKey("train", 2, {}, {"lr": 1})
    names = {
        "checkpoints/aa": 15.0, "checkpoints/bb": 13.0, "partial/cc.jsonl": 15.0, "partial/dd.jsonl": 13.0,
        "partial/ee": 15.0, f"checkpoints/{working.digest}": 15.0, "artifacts/ff": 99.0,
    }  # fmt: skip
    paths = {name: leave(name, days) for name, days in names.items()}
    young = leave("checkpoints/gg", 15.0)
    os.utime(young / "checkpoint-5" / "weights")  # written to a moment ago
    store = Store.__new__(Store)  # `locked` needs no server
    with store.locked(working):
        assert drop_leftovers() == ["aa", "cc.jsonl", "ee"]
    assert [name for name, path in paths.items() if not path.exists()] == [
        "checkpoints/aa", "partial/cc.jsonl", "partial/ee"
    ]  # fmt: skip
    assert young.exists()
    assert drop_leftovers() == [working.digest]
    assert drop_leftovers(days=12) == ["bb", "dd.jsonl"]
