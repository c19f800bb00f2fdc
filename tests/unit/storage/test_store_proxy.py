"""Artifacts come through MLflow's server, also from one that would send its clients to an object store of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.core import home
from tests.lab.web import Handler, listening

CONTENT = b"the adapter"
ARTIFACTS = "/api/2.0/mlflow-artifacts"


class OnObjectStore(Handler):
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
        self.say(404 if said is None else 200, body)


@pytest.fixture
def server() -> Iterator[str]:
    with listening(OnObjectStore) as address:
        yield address


@pytest.mark.usefixtures("state")
def test_nobody_is_sent_to_the_object_store(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in home.QUIET:
        monkeypatch.delenv(name, raising=False)  # `quiet_environment` puts them where they are not
    home.quiet_environment()
    from mlflow.artifacts import download_artifacts

    uri = "mlflow-artifacts:/1/run/artifacts/weights.bin"
    found = download_artifacts(uri, dst_path=str(tmp_path / "out"), tracking_uri=server)
    assert Path(found).read_bytes() == CONTENT
