"""What a study on a cluster refuses before it looks for Ray: in one line, with exit code 2."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.cluster.ray_cluster import connect, disk_complaint, task_runner
from tasks.core.errors import InputError
from tests.lab.ray_lab import run_study


@pytest.fixture(autouse=True)
def servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both servers have an address; whether anybody is there is asked later."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("COLINEAR_RAY", "auto")


@pytest.fixture
def prefect_server() -> Iterator[None]:
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        yield


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("uri", [None, "sqlite:////data/mlflow.db", "file:///data/mlruns", "/data/mlruns"])
def test_a_store_on_this_machine(monkeypatch: pytest.MonkeyPatch, uri: str | None) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    if uri is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(InputError, match=rf"^MLFLOW_TRACKING_URI: {uri or 'the local database'} is on this machine"):
        connect()


def test_no_prefect_server() -> None:
    with temporary_settings({PREFECT_API_URL: None}), pytest.raises(InputError, match=r"^PREFECT_API_URL: not set, "):
        connect()


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(
    "address", ["local", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", "http://127.0.0.1:9", ":9"]
)
def test_an_address_of_no_cluster(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("COLINEAR_RAY", address)
    with pytest.raises(
        InputError, match=rf"^COLINEAR_RAY: expected auto, HOST:PORT or ray://HOST:PORT, got '{address}'$"
    ):
        connect()


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_nobody_answers(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can come to listen there
        address = f"{scheme}127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setenv("COLINEAR_RAY", address)
        with pytest.raises(
            InputError, match=rf"^COLINEAR_RAY: no Ray cluster answers at {address} \(Connection refused\)$"
        ):
            connect()


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("refused", [connect, task_runner])
def test_ray_is_missing(monkeypatch: pytest.MonkeyPatch, refused: Callable[[], object]) -> None:
    monkeypatch.setitem(sys.modules, "prefect_ray", None)  # as where it is not installed
    with pytest.raises(InputError, match=r"^COLINEAR_RAY: Ray is not installed here \(.*\); pip install .*\[ray\]"):
        refused()


@pytest.mark.parametrize("folder", ["/srv/mlruns/1", "file:///srv/artifacts"])
def test_artifacts_on_the_servers_own_disk(folder: str) -> None:
    complaint = disk_complaint(["mlflow-artifacts:/0", folder])
    assert complaint is not None
    assert complaint.startswith(f"keeps artifacts in {folder}, which is no place for other machines: ")
    assert disk_complaint(["mlflow-artifacts:/0", "s3://bucket/1"]) is None


def test_the_command_refuses_in_one_line(tmp_path: Path) -> None:
    study = run_study(tmp_path, ("smoke",), "out", 60, {"COLINEAR_RAY": "127.0.0.1:6379"})
    assert (study.code, study.stdout) == (2, "")
    assert study.stderr.startswith("colinear: MLFLOW_TRACKING_URI: the local database is on this machine, and ")
    assert study.stderr.count("\n") == 1
    assert not study.folder.exists()
