"""Prefect's and MLflow's servers on loopback, on the project's own stores: started, awaited, watched, stopped.

Each is a process group of its own, so that Ctrl-C in a terminal reaches us first and nothing of theirs is left behind,
also where we are killed (`flows.servers.orphans`).
Both serve the databases that studies write without them (`flows.servers.embedded`, `tasks.storage.store`): earlier runs
are there.
"""

from __future__ import annotations

import base64
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from flows.servers import orphans
from tasks.core import home, login
from tasks.core.errors import InputError, StageError
from tasks.core.secrets import without_password
from tasks.storage.mlflow_door import APP

LOOPBACK = "127.0.0.1"
READY_SECONDS = 180.0
"""A first start creates the databases: 10 to 20 s on free cores, minutes on a machine that is busy."""

STOP_SECONDS = 10.0
POLL_SECONDS = 0.25
REACH_SECONDS = 5.0
_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Addresses:
    """Where the two servers are: Prefect's API, and MLflow."""

    prefect: str
    mlflow: str

    @property
    def prefect_ui(self) -> str:
        """What a browser opens."""
        return ui_of(self.prefect)


def ui_of(api: str) -> str:
    """The address of the pages beside an API: ``http://HOST:PORT/api`` without its last part."""
    return api.rstrip("/").removesuffix("/api")


def _status(url: str, seconds: float, given: str = "") -> int:
    """Of the answer at this address, to ``given`` (``user:password``, or nothing); 0 where there is none."""
    # urllib would take a password for a part of the host's name.
    try:
        request = urllib.request.Request(without_password(url))
        if given:
            request.add_header("Authorization", f"Basic {base64.b64encode(given.encode()).decode()}")
        direct = urlsplit(request.full_url).hostname in (LOOPBACK, "localhost")  # no proxy is for loopback
        with (_NO_PROXY.open if direct else urllib.request.urlopen)(request, timeout=seconds) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, ValueError):  # refused, no such host, no URL at all
        return 0


def answers(url: str, seconds: float = REACH_SECONDS) -> bool:
    """Whether a server says at this address that it is well."""
    return 200 <= _status(url, seconds) < 300


def lets_in(url: str, given: str) -> bool:
    """Whether a server that answers at this address does so to ``given``, ``user:password`` or nothing."""
    return _status(url, REACH_SECONDS, given) not in (401, 403)


def healthy_prefect(api: str) -> bool:
    """Whether a Prefect API answers."""
    return answers(f"{api.rstrip('/')}/health")


def healthy_mlflow(uri: str) -> bool:
    """Whether an MLflow server answers."""
    return answers(f"{uri.rstrip('/')}/health")


def check_port(option: str, port: int) -> None:
    """Raise `InputError` where something listens on a port already, with one that is free."""
    if _free(port):
        return
    other = next((one for one in range(port + 1, min(port + 100, 65536)) if _free(one)), None)
    way_out = f"{option} {other} is free" if other else "give another"
    raise InputError(f"{option}: port {port} is in use on this machine; {way_out}")


def _free(port: int) -> bool:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what a server that just ended held is free
        try:
            tried.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


class Server:
    """One server, in a process group of its own, its output in a log.

    ``folder``: where it works, by default the state folder. ``sockets``: file descriptors that it gets.
    """

    def __init__(
        self,
        name: str,
        words: Sequence[str],
        environment: Mapping[str, str],
        url: str,
        health: str,
        folder: Path | None = None,
        sockets: Sequence[int] = (),
    ) -> None:
        self.name, self.url, self.health = name, url, health
        self.log = home.subfolder("logs") / f"{name.lower().replace(' ', '-')}-server.log"
        self._start: Callable[..., Any] = partial(
            subprocess.Popen,
            [sys.executable, "-m", *words],
            cwd=folder or home.home(),
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=sockets,
        )
        orphans.prepare()
        self.start("w")

    def start(self, mode: Literal["w", "a"] = "a") -> None:
        """Start its process, also again where that was killed; the log goes on."""
        with self.log.open(mode) as log:
            self.process: subprocess.Popen[bytes] = self._start(stdout=log, stderr=log)
        orphans.watch(self.process.pid, group=True)

    def check(self) -> None:
        """Raise `StageError` where the process has ended."""
        if (code := self.process.poll()) is not None:
            said = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
            last = f": {said[-1]}" if said else ""
            raise StageError(f"{self.name}'s server ended with exit code {code}{last} (its output: {self.log})")

    def wait(self, stopped: Callable[[], bool]) -> bool:
        """Wait until it answers; False where ``stopped()`` comes first. Raises `StageError` where it dies instead."""
        deadline = time.monotonic() + READY_SECONDS
        while not stopped():
            self.check()
            if answers(self.health, 2.0):
                return True
            if time.monotonic() > deadline:
                raise StageError(
                    f"{self.name}'s server did not answer in {READY_SECONDS:.0f} s (its output: {self.log})"
                )
            time.sleep(POLL_SECONDS)
        return False

    def ask_to_end(self) -> None:
        """SIGTERM to the whole group."""
        self._signal(signal.SIGTERM)

    def end(self, deadline: float) -> None:
        """Wait for the end until ``deadline`` (of `time.monotonic`), then kill what is left of the group."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(max(0.0, deadline - time.monotonic()))
        self._signal(signal.SIGKILL)
        self.process.wait()
        orphans.forget(self.process.pid)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def stop(servers: Sequence[Server]) -> None:
    """End them all, with everything that they started."""
    for server in servers:
        server.ask_to_end()
    deadline = time.monotonic() + STOP_SECONDS
    for server in servers:
        server.end(deadline)


def start_prefect(port: int) -> Server:
    """Prefect's server with its pages and its scheduler, on the database that embedded mode writes; it asks for the
    state folder's login."""
    url = f"http://{LOOPBACK}:{port}"
    environment = {
        "PREFECT_SERVER_API_AUTH_STRING": login.of(home.home()),
        # The pages ask the port of the settings, whatever `--port` says.
        "PREFECT_SERVER_API_HOST": LOOPBACK,
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_UI_URL": url,  # for links in messages
        "PREFECT_LOGGING_LEVEL": os.environ.get("PREFECT_LOGGING_LEVEL", "WARNING"),
    }
    return Server("Prefect", ["prefect", "server", "start"], environment, f"{url}/api", f"{url}/api/health")


def start_mlflow(port: int, store: str, artifacts: Path) -> Server:
    """MLflow's server on a store of ours, behind the state folder's login (`tasks.storage.mlflow_door`).

    Its default list of allowed hosts is kept: it has loopback at any port, so also the other end of a tunnel; a list
    given with ``--allowed-hosts`` would have to name each port.
    """
    url = f"http://{LOOPBACK}:{port}"
    words = [
        "tasks.storage.mlflow_door", "server", "--app-name", APP, "--host", LOOPBACK, "--port", str(port),
        "--workers", "1", "--artifacts-destination", str(artifacts),
    ]  # fmt: skip
    environment = {
        "COLINEAR_HOME": str(home.home()),  # whose login: the server works in another folder
        "MLFLOW_BACKEND_STORE_URI": store,  # no option: everybody on the machine reads a process's command line
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # for GenAI evaluations: four more processes
    }
    return Server("MLflow", words, environment, url, f"{url}/health")


def running() -> Addresses | None:
    """The servers that `colinear ui` runs for this state folder, if they answer."""
    if (said := login.recorded(home.home())) is None:
        return None
    found = Addresses(str(said["prefect"]), str(said["mlflow"]))
    return found if healthy_prefect(found.prefect) else None


def how_to_log_in() -> str:
    """What to tell the owner of the state folder about its own servers."""
    user, _, password = (both := login.of(home.home())).partition(":")
    return f"user {user}, password {password}; Prefect's page has one field for both: {both}"
