"""Artifacts come through MLflow's server, also from one that would send its clients to an object store of its own."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tasks.core import home

CONTENT = b"the adapter"
ARTIFACTS = "/api/2.0/mlflow-artifacts"


class OnObjectStore(BaseHTTPRequestHandler):
    """What MLflow 3.17's server says when its artifacts are on S3: here the store's name is known to nobody."""

    def do_GET(self) -> None:
        presigned = {"url": "http://store.invalid:8333/mlflow/1", "headers": {}, "file_size": len(CONTENT)}
        path = self.path.partition("?")[0]
        said: Any = {
            "/api/3.0/mlflow/server-info": {"multipart_downloads_enabled": True, "multipart_uploads_enabled": True},
            f"{ARTIFACTS}/presigned/1/run/artifacts/weights.bin": presigned,
            f"{ARTIFACTS}/artifacts/1/run/artifacts/weights.bin": CONTENT,
            f"{ARTIFACTS}/artifacts": {"files": []},
        }.get(path)
        body = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(404 if said is None else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    listening = ThreadingHTTPServer(("127.0.0.1", 0), OnObjectStore)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listening.server_port}"
    listening.shutdown()
    listening.server_close()


@pytest.mark.usefixtures("state")
def test_nobody_is_sent_to_the_object_store(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in home.QUIET:
        monkeypatch.delenv(name, raising=False)  # `quiet_environment` puts them where they are not
    home.quiet_environment()
    from mlflow.artifacts import download_artifacts

    uri = "mlflow-artifacts:/1/run/artifacts/weights.bin"
    found = download_artifacts(uri, dst_path=str(tmp_path / "out"), tracking_uri=server)
    assert Path(found).read_bytes() == CONTENT
