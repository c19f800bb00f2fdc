"""A real MLflow server for the tests that need one: artifacts go through its HTTP proxy."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

READY_SECONDS = 120


@dataclass(frozen=True)
class Server:
    """A server's address, and the folder that only it writes artifacts to."""

    uri: str
    artifacts: Path


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all tests of the session, which leave it as it is."""
    with running(tmp_path_factory.mktemp("server")) as found:
        yield found


@contextmanager
def running(folder: Path) -> Iterator[Server]:
    """Its database and artifacts are in ``folder``. It answers under any name, so that a proxy may stand before it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    with (folder / "log").open("a") as log:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
                "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--allowed-hosts", "*",
                "--artifacts-destination", str(folder / "artifacts"),
            ],
            cwd=folder, stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1",
                 "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )  # fmt: skip
        try:
            wait_until_ready(uri, process, folder / "log")
            yield Server(uri, folder / "artifacts")
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # a group of its own: the server and its worker; nothing to save
            process.wait()


def wait_until_ready(uri: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until it answers. Fails where it ends or is not there in time."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    pytest.fail(f"no server after {READY_SECONDS} s: {log.read_text()}")
