"""Artifacts as local folders, checked before anybody reads them: in place where on this disk, else downloaded once."""

from __future__ import annotations

import shutil
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from tasks.core import home
from tasks.core.digests import Damaged, last_written, verify_entry
from tasks.core.results import ArtifactRef

FOLDER = "output"  # within a run's artifacts


class Copies:
    """``fetch(ref, folder)`` downloads a remote artifact's `FOLDER` and manifest into ``folder``."""

    def __init__(self, fetch: Callable[[ArtifactRef, Path], None]) -> None:
        self._fetch = fetch
        self._sound: dict[str, tuple[Path, object]] = {}

    def folder(self, ref: ArtifactRef) -> Path:
        """The artifact's files, all checked against the manifest: once a process, and again where one was written to
        since. Raises `Damaged`."""
        folder, written = self._sound.get(ref.sha256, (None, None))
        if folder is not None and written == last_written(folder):
            return folder
        parsed = urllib.parse.urlparse(ref.uri)
        if parsed.scheme in ("", "file"):
            folder = Path(urllib.request.url2pathname(parsed.path))
            written = last_written(folder)  # before they are read: what is written meanwhile shows
            verify_entry(folder, ref.sha256)
        else:
            folder = self._downloaded(ref)
            written = last_written(folder)
        self._sound[ref.sha256] = folder, written
        return folder

    def _downloaded(self, ref: ArtifactRef) -> Path:
        """The verified copy of a remote artifact. A copy that was damaged here is fetched again."""
        downloads = home.subfolder("downloads")
        target = downloads / ref.sha256
        with FileLock(downloads / f"{ref.sha256}.lock", thread_local=False):
            if target.is_dir():
                try:
                    verify_entry(target / FOLDER, ref.sha256)
                    return target / FOLDER
                except Damaged:
                    shutil.rmtree(target)
            partial = Path(tempfile.mkdtemp(prefix="partial-", dir=downloads))
            try:
                self._fetch(ref, partial)
                verify_entry(partial / FOLDER, ref.sha256)
                partial.rename(target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        return target / FOLDER
