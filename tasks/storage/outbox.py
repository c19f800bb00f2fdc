"""Finished outputs on their way to the record: kept here until it has them, so that none is computed twice.

An output is written in ``staging/KEY``, which becomes ``outbox/KEY`` by one renaming when it is whole. It goes when the
record has it. Whoever finds it there, in whatever process, holds the key's lock and has only to send it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.core import home
from tasks.core.digests import Damaged, StageKey, build_manifest, manifest_digest, verify
from tasks.core.events import damaged

OUTPUT = "output"
NOTE = "note.json"

Row = tuple[str, float, int, int]
"""A metric's name, value, step, and time in milliseconds: sent again with the same time it is not there twice."""


@dataclass(frozen=True)
class Finished:
    """What is known of a finished output beside its files."""

    run_id: str
    """The MLflow run that was opened for it."""

    seconds: float
    manifest: dict[str, Any]
    rows: list[Row]
    """Metrics that MLflow is not known to have."""

    sha256: str
    """Digest of all that, by which damage is known."""


def begin(key: StageKey) -> Path:
    """An empty folder for a stage's output; what a killed process left of it is deleted."""
    abandon(key)
    output = _staging(key) / OUTPUT
    output.mkdir(parents=True)
    return output


def abandon(key: StageKey) -> None:
    """Delete an output that did not become whole."""
    shutil.rmtree(_staging(key), ignore_errors=True)


def finish(key: StageKey, run_id: str, seconds: float, rows: Sequence[Row]) -> Finished:
    """Say that the output in `begin`'s folder is whole."""
    staging = _staging(key)
    manifest = build_manifest(staging / OUTPUT)
    known = {"run_id": run_id, "seconds": seconds, "manifest": manifest, "rows": list(rows)}
    finished = Finished(**known, sha256=manifest_digest(known))  # type: ignore[arg-type]
    (staging / NOTE).write_text(json.dumps(asdict(finished)), encoding="utf-8")
    discard(key)
    staging.rename(folder(key))
    return finished


def find(key: StageKey) -> Finished | None:
    """The finished output of ``key``, or None; one that is not what its note says is deleted, and told."""
    if not folder(key).is_dir():
        return None
    try:
        found = _read(folder(key) / NOTE)
        verify(folder(key) / OUTPUT, found.manifest)
    except Damaged as error:
        damaged(f"{folder(key)}: {error}; it is computed again")
        discard(key)
        return None
    return found


def _read(note: Path) -> Finished:
    try:
        values = json.loads(note.read_text(encoding="utf-8"))
        found = Finished(**{**values, "rows": [tuple(row) for row in values["rows"]]})
    except (OSError, ValueError, TypeError, LookupError) as error:  # whatever stands there instead
        raise Damaged(f"{note.name} cannot be read") from error
    if manifest_digest({name: value for name, value in values.items() if name != "sha256"}) != found.sha256:
        raise Damaged(f"{note.name} does not have its digest")
    return found


def discard(key: StageKey) -> None:
    """The record has it."""
    shutil.rmtree(folder(key), ignore_errors=True)


def folder(key: StageKey) -> Path:
    """Where a finished output of ``key`` is, if there is one: its files in `OUTPUT`."""
    return home.subfolder("outbox") / key.digest


def _staging(key: StageKey) -> Path:
    return home.subfolder("staging") / key.digest
