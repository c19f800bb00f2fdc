"""A Hub on loopback: just enough of its HTTP interface for the real `datasets` client to load from it."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "a" * 40


@contextmanager
def local_hub(repositories: Mapping[str, Mapping[str, bytes]], home: Path) -> Iterator[dict[str, str]]:
    """Serve data sets ``org/name`` -> {path: content}; yields the environment of a process that asks this Hub.

    Its cache is ``home``. The server ends with the context.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(repositories))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    unset = {"HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "COLINEAR_DATA", "HF_TOKEN"}
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    try:
        yield inherited | {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(home)}
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(repositories: Mapping[str, Mapping[str, bytes]]) -> type[BaseHTTPRequestHandler]:
    class Hub(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

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
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

        do_HEAD = do_GET

        def _file(self, files: Mapping[str, bytes], file: str) -> None:
            if file not in files:
                return self._answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            etag = {"ETag": f'"{_entry(files, file)["oid"]}"', "X-Repo-Commit": COMMIT}
            self._answer(200, files[file], etag)

        def _json(self, value: object) -> None:
            self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for header, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(header, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

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
