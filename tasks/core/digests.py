"""Digests of files, of whole folders and of what decides a stage: what makes artifacts content-addressed. A leaf."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


class Damaged(Exception):
    """An entry whose files are not what its manifest says."""


@dataclass(frozen=True)
class StageKey:
    """What decides a stage's output. Two equal digests mean: the same output, already there."""

    stage: str
    version: int
    inputs: Mapping[str, str]
    settings: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON of all four parts."""
        parts = {
            "stage": self.stage,
            "version": self.version,
            "inputs": dict(self.inputs),
            "settings": dict(self.settings),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def build_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """``{relative path: {size, sha256}}`` of every file under ``folder``, sorted."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": file_digest(path)}
        for path in files
    }


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """sha256 of a manifest: the digest of the whole artifact."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def seal(key: str, manifest: str) -> str:
    """What says that the output with this manifest's digest is the one of this key: a record has all three."""
    return hashlib.sha256(f"{key} {manifest}".encode()).hexdigest()


def last_written(folder: Path) -> dict[str, tuple[int, int, int]]:
    """{path: (inode, size, nanoseconds of the last change of inode or content)} of every file under ``folder``.

    Unequal to an earlier answer wherever a file was written, replaced, added or lost since, whatever its dates say.
    """
    found = {}
    for path in folder.rglob("*"):
        status = path.stat()
        if not stat.S_ISDIR(status.st_mode):
            found[path.relative_to(folder).as_posix()] = (status.st_ino, status.st_size, status.st_ctime_ns)
    return found


def verify(folder: Path, manifest: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise `Damaged`, naming the file, unless ``folder`` holds exactly what ``manifest`` says."""
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    for name in sorted(present - manifest.keys()):
        raise Damaged(f"{name} was not there when it was recorded")
    for name, expected in manifest.items():
        path = folder / name
        if not path.is_file():
            raise Damaged(f"{name} is missing")
        if path.stat().st_size != expected["size"] or file_digest(path) != expected["sha256"]:
            raise Damaged(f"{name} does not have its recorded digest")


def verify_entry(folder: Path, sha256: str) -> None:
    """Raise `Damaged` unless ``folder`` is what the `MANIFEST` beside it says, and that has the digest ``sha256``."""
    path = folder.parent / MANIFEST
    if not path.is_file():
        raise Damaged(f"{MANIFEST} is missing")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # neither JSON nor UTF-8
        raise Damaged(f"{MANIFEST} is not JSON") from error
    if manifest_digest(manifest) != sha256:
        raise Damaged(f"{MANIFEST} is not the one that was recorded")
    verify(folder, manifest)
