"""Prefect's and MLflow's servers as services apart: killed with everything of theirs, and back where they were."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from tests.lab.living import free_port
from tests.lab.mlflow_server import wait_until_ready

QUIET = {
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}


class Killable:
    """One server on a port that stays its own."""

    def __init__(self, folder: Path, words: Sequence[str], health: str = "") -> None:
        self.folder, self.log = folder, folder / "log"
        folder.mkdir(parents=True)
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}{health}"
        self.words = [sys.executable, "-m", *words, "--host", "127.0.0.1", "--port", str(self.port)]
        self.timer: threading.Timer | None = None
        self._start()
        self.wait()

    def _start(self) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                self.words, cwd=self.folder, env={**kept, **QUIET, "PREFECT_HOME": str(self.folder)},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def wait(self) -> None:
        """Until it answers."""
        if self.timer is not None:
            self.timer.join()
        wait_until_ready(self.uri, self.process, self.log)

    def kill(self, away: float) -> None:
        """kill -9, and after so many seconds it is started again, as a supervisor would."""
        self.end()
        self.timer = threading.Timer(away, self._start)
        self.timer.start()

    def end(self) -> None:
        if self.timer is not None:
            self.timer.join()
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def prefect_server(folder: Path) -> Killable:
    return Killable(folder, ["prefect", "server", "start"], "/api")


def mlflow_server(folder: Path) -> Killable:
    """With its database and its ``artifacts`` in ``folder``."""
    return Killable(
        folder,
        ["mlflow", "server", "--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}",
         "--artifacts-destination", str(folder / "artifacts")],
    )  # fmt: skip
