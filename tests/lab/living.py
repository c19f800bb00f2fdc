"""`colinear ui` and `colinear serve` as a person has them: real processes, real servers, on free ports."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = 240.0
"""For a machine that is busy; on free cores everything here takes 10 to 20."""

TRIES = 5

Done = subprocess.CompletedProcess[str]

EMBEDDED = """
from tasks.core import home
home.quiet_environment()  # before Prefect is imported, as the command does it
from prefect import flow
from flows.servers import embedded
embedded.prepare()
flow(name="before", flow_run_name="before the ui")(lambda: 7)()
"""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def environment(home: Path, **more: str) -> dict[str, str]:
    """Without servers, logins or state folders of whoever runs the tests."""
    kept = {
        **os.environ, "COLINEAR_HOME": str(home), "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": f"{SECONDS:.0f}", **more,
    }  # fmt: skip
    for name in (
        "MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME", "PREFECT_SERVER_API_AUTH_STRING", "COLINEAR_SLOTS",
        "PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD",
    ):  # fmt: skip
        if name not in more:
            kept.pop(name, None)
    return kept


def left_behind(home: Path) -> list[str]:
    """Command lines of the living processes that have this state folder in their environment, but for our own."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            alive = (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
            theirs = f"COLINEAR_HOME={home}\0".encode() in (folder / "environ").read_bytes()
            if alive and theirs and int(folder.name) != os.getpid():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # it has ended, or is somebody else's
            continue
    return found


def colinear(*words: str, home: Path, cwd: Path | None = None, timeout: float = SECONDS, **more: str) -> Done:
    """A command that ends by itself."""
    return python("-m", "flows.cli", *words, home=home, cwd=cwd or home, timeout=timeout, **more)


def python(*words: str, home: Path, cwd: Path = ROOT, timeout: float = SECONDS, **more: str) -> Done:
    """``python WORDS`` with the state folder ``home``."""
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment(home, **more), text=True, capture_output=True,
        timeout=timeout, check=False,
    )  # fmt: skip


@dataclass
class Living:
    """A command that runs until it is told to stop."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text()

    def wait_for(self, text: str) -> None:
        until(lambda: text in self.said or self.process.poll() is not None)
        assert text in self.said, self.said

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(SECONDS)


@contextmanager
def living(*words: str, home: Path, cwd: Path | None = None, **more: str) -> Iterator[Living]:
    """Start a command; whatever a failing test left of it is killed."""
    home.mkdir(parents=True, exist_ok=True)
    log = home / f"{words[0]}-test.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *words], cwd=cwd or home, env=environment(home, **more), stdout=output,
            stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        yield Living(process, log)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(SECONDS)


def until(true: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """What ``true()`` returns as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.2)
    return found


@dataclass(frozen=True)
class Ui:
    """A running `colinear ui`."""

    home: Path
    prefect: str
    mlflow: str
    living: Living

    @property
    def login(self) -> str:
        """``user:password``."""
        return (self.home / "token").read_text().strip()

    @property
    def known(self) -> dict[str, str]:
        """The header of a request that is let in."""
        return {"authorization": f"Basic {base64.b64encode(self.login.encode()).decode()}"}

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Prefect's API: GET, or POST with a body; again after a 503, as its own clients do: SQLite was busy."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json", **self.known}
        request = urllib.request.Request(f"{self.prefect}/api{path}", data, headers)
        for left in reversed(range(TRIES)):
            try:
                with urllib.request.urlopen(request, timeout=60) as reply:
                    return json.loads(reply.read())
            except urllib.error.HTTPError as error:
                if error.code != 503 or not left:
                    raise
                time.sleep(1)


@pytest.fixture(scope="session")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    """`colinear ui` on the store of an embedded run that came before it; stopped by Ctrl-C, leaving nothing."""
    home = tmp_path_factory.mktemp("ui") / "home"
    home.mkdir()
    subprocess.run([sys.executable, "-c", EMBEDDED], env=environment(home), check=True, timeout=SECONDS)
    ports = free_port(), free_port()
    with living("ui", "--prefect-port", str(ports[0]), "--mlflow-port", str(ports[1]), home=home) as running:
        running.wait_for("Ready after")
        yield Ui(home, f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}", running)
        assert running.stop() == 0, running.said
        until(lambda: not left_behind(home), 30)
