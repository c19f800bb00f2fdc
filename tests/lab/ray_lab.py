"""A real Ray cluster of two nodes, an MLflow server and a Prefect server, all on loopback.

Each node has an address, a state folder and a temporary folder of its own, as two machines have; the cluster answers
only those that know its token.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.lab.study_runs import ROOT, Study

READY_SECONDS = 120
HEAD, OTHER = "127.0.0.2", "127.0.0.3"  # 127.0.0.1 itself Ray replaces by the machine's outer address
QUIET = {
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "COLINEAR_SLOTS": "2",
}


@dataclass
class RayLab:
    """Where everything is; ``environment`` is what a user exports."""

    folder: Path
    environment: Mapping[str, str]
    client: str
    """The cluster's address for a machine that is no node of it."""

    def home(self, node: str) -> Path:
        """A node's state folder, or the driver's."""
        return self.folder / node / "home"

    def run(self, *words: str, out: str, timeout: float = 900, **changed: str) -> Study:
        """``colinear study WORDS --out OUT`` on the cluster."""
        return run_study(self.folder / "driver", words, out, timeout, {**self.environment, **changed})

    def task_runs(self) -> list[dict[str, Any]]:
        """What Prefect's server knows of the tasks of all studies."""
        asked = urllib.request.Request(
            f"{self.environment['PREFECT_API_URL']}/task_runs/filter",
            data=json.dumps({"limit": 200}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(asked, timeout=30) as answer:
            runs: list[dict[str, Any]] = json.load(answer)
        return runs


def run_study(folder: Path, words: tuple[str, ...], out: str, timeout: float, environment: Mapping[str, str]) -> Study:
    """A study with its state in ``folder / "home"``."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "study", *words, "--out", str(folder / out)],
        cwd=ROOT, env=_environment(folder, environment), capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    return Study(folder / out, done.returncode, done.stdout, done.stderr, time.monotonic() - began)


@contextmanager
def ray_lab(folder: Path) -> Iterator[RayLab]:
    """Start everything, and end it."""
    mlflow, prefect, head, client = (_free_port(host) for host in ("127.0.0.1", "127.0.0.1", HEAD, HEAD))
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    environment = {
        **token,
        "COLINEAR_RAY": f"{HEAD}:{head}",
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{mlflow}",
        "PREFECT_API_URL": f"http://127.0.0.1:{prefect}/api",
    }
    with ExitStack() as stack:
        server = [
            "mlflow", "server", "--host", "127.0.0.1", "--port", str(mlflow), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--allowed-hosts", f"127.0.0.1:{mlflow}",
            "--artifacts-destination", str(folder / "artifacts"),
        ]  # fmt: skip
        servers = [stack.enter_context(_process(folder / "mlflow", server))]
        server = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(prefect)]
        servers.append(stack.enter_context(_process(folder / "prefect", server)))

        def node(name: str, *words: str) -> None:
            short = stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-"))  # a socket's path: 107 characters
            common = ["--num-cpus=2", "--num-gpus=1", "--object-store-memory=100000000", "--disable-usage-stats"]
            start = ["ray.scripts.scripts", "start", "--block", *common, f"--temp-dir={short}", *words]
            process = stack.enter_context(_process(folder / name, start, token))
            _wait(process, folder / name, lambda: "Ray runtime started" in (folder / name / "log").read_text())

        heads = ["--head", f"--port={head}", f"--ray-client-server-port={client}", "--include-dashboard=false"]
        node("one", f"--node-ip-address={HEAD}", *heads)
        node("two", f"--node-ip-address={OTHER}", f"--address={HEAD}:{head}")
        _wait(servers[0], folder / "mlflow", lambda: _answers(f"http://127.0.0.1:{mlflow}/health"))
        _wait(servers[1], folder / "prefect", lambda: _answers(f"http://127.0.0.1:{prefect}/api/health"))
        yield RayLab(folder, environment, f"ray://{HEAD}:{client}")


@contextmanager
def _process(folder: Path, module: list[str], more: Mapping[str, str] = {}) -> Iterator[subprocess.Popen[bytes]]:
    """``python -m MODULE`` with a state and a temporary folder of its own; killed with all that it started."""
    folder.mkdir()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *module],
            cwd=folder, env=_environment(folder, more), stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        children = psutil.Process(process.pid).children(recursive=True)  # Ray gives its processes groups of their own
        os.killpg(process.pid, signal.SIGKILL)
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        process.wait()


def _environment(folder: Path, more: Mapping[str, str]) -> dict[str, str]:
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    ours = ("COLINEAR_", "PREFECT_", "MLFLOW_", "RAY_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    own = {"COLINEAR_HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"), "PYTHONPATH": str(ROOT)}
    return {**clean, **QUIET, **own, "PREFECT_HOME": str(folder / "prefect"), **more}


def _free_port(host: str) -> int:
    """A port that is free now, and later: of those that neither the kernel nor Ray (10002 to 19999) gives away."""
    while True:
        port = 20000 + secrets.randbelow(12000)
        with socket.socket() as free, suppress(OSError):
            free.bind((host, port))
            return port


def _wait(process: subprocess.Popen[bytes], folder: Path, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not ready():
        assert process.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < deadline, (folder / "log").read_text()
        time.sleep(0.2)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
