"""A Hub on loopback: just enough of its HTTP interface for the real `datasets` client to load from it."""

from __future__ import annotations

import hashlib
import json
import os
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.lab.web import Handler, listening

COMMIT = "a" * 40


@contextmanager
def local_hub(repositories: Mapping[str, Mapping[str, bytes]], home: Path) -> Iterator[dict[str, str]]:
    """Serve data sets ``org/name`` -> {path: content}; yields the environment of a process that asks this Hub.

    Its cache is ``home``. The server ends with the context.
    """
    unset = {"HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "COLINEAR_DATA", "HF_TOKEN"}
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    with listening(_handler(repositories)) as address:
        yield inherited | {"HF_ENDPOINT": address, "HF_HOME": str(home)}


def _handler(repositories: Mapping[str, Mapping[str, bytes]]) -> type[Handler]:
    class Hub(Handler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
            for name, files in repositories.items():
                if path.startswith(f"/datasets/{name}/resolve/"):
                    return self._file(files, path.split("/resolve/")[1].partition("/")[2])
                if path.startswith(f"/api/datasets/{name}/tree/"):
                    folder = path.split("/tree/")[1].partition("/")[2]
                    return self._json(_listing(files, folder))
                if path == f"/api/datasets/{name}" or path.startswith(f"/api/datasets/{name}/revision/"):
                    siblings = [{"rfilename": file} for file in files]
                    return self._json({"id": name, "sha": COMMIT, "private": False, "tags": [], "siblings": siblings})
            self.say(404, b"{}", X_Error_Code="RepoNotFound")

        do_HEAD = do_GET

        def _file(self, files: Mapping[str, bytes], file: str) -> None:
            if file not in files:
                return self.say(404, b"{}", X_Error_Code="EntryNotFound")
            self.say(200, files[file], ETag=f'"{_entry(files, file)["oid"]}"', X_Repo_Commit=COMMIT)

        def _json(self, value: object) -> None:
            self.say(200, json.dumps(value).encode(), Content_Type="application/json")

    return Hub


def _listing(files: Mapping[str, bytes], folder: str) -> list[dict[str, object]]:
    """What lies directly in a folder."""
    prefix = f"{folder}/" if folder else ""
    inside = [file.removeprefix(prefix) for file in files if file.startswith(prefix)]
    folders = dict.fromkeys(prefix + path.partition("/")[0] for path in inside if "/" in path)
    return [
        *({"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in folders),
        *(_entry(files, prefix + path) for path in inside if "/" not in path),
    ]


def _entry(files: Mapping[str, bytes], file: str) -> dict[str, object]:
    return {"type": "file", "path": file, "size": len(files[file]), "oid": hashlib.sha1(files[file]).hexdigest()}
