"""Prefect's embedded server: where no other is configured, a command starts one beside its imports, and ends it.

Prefect starts one by itself with the first client, but to do so it imports all of the server's code into the command,
and then waits: 11 s to the first stage instead of 4. Everything in this process and its children finds ours as it finds
any other, by ``PREFECT_API_URL``.
"""

from __future__ import annotations

import atexit
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock

from flows.servers import processes
from tasks.core import home
from tasks.core.login import prefect_address
from tasks.storage.making import making
from tasks.storage.state import check_databases, prefect_database

WATCH_SECONDS = 1.0
WAITING = 2048
"""Connections that may wait for the server while it starts."""


class Embedded:
    """The server. Its socket is ours, so that its address stays where the process is started again, and whoever asks
    meanwhile waits for the answer."""

    def __init__(self) -> None:
        self._starting = ExitStack()  # two processes that make a fresh database at once race
        self._starting.enter_context(FileLock(home.home() / "prefect-init.lock"))
        self._made = self._starting.enter_context(making_database())
        self._socket = socket.create_server((processes.LOOPBACK, 0), backlog=WAITING)
        url = f"http://{processes.LOOPBACK}:{self._socket.getsockname()[1]}"
        self.url = f"{url}/api"
        self._server = processes.Server(
            "Embedded Prefect",
            _words(self._socket.fileno()),
            # As Prefect sets them: no pages, no scheduler.
            {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"},
            url,
            f"{self.url}/health",
            Path.cwd(),  # Prefect's settings may lie in a file there
            [self._socket.fileno()],
        )
        self._over = threading.Event()
        self._reviving = threading.Lock()
        atexit.register(self._end)

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._server.process.pid

    def wait(self) -> None:
        """Wait until it answers; from then on it is started again where it is killed. Raises `StageError`."""
        with self._starting:
            self._server.wait(self._over.is_set)
            self._made()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self._over.wait(WATCH_SECONDS):
            with self._reviving:
                if self._server.process.poll() is not None and not self._over.is_set():
                    logging.getLogger("colinear").warning("Prefect's embedded server ended; it is started again")
                    self._server.start()

    def _end(self) -> None:
        with self._reviving:
            self._over.set()
        self._starting.close()
        processes.stop([self._server])


def _words(listening: int) -> list[str]:
    """What Prefect itself runs as its embedded server."""
    spec = find_spec("prefect")
    assert spec is not None
    assert spec.origin is not None
    return [
        "uvicorn", "--app-dir", str(Path(spec.origin).parents[1]), "--factory", "prefect.server.api.server:create_app",
        "--fd", str(listening), "--log-level", "error", "--lifespan", "on",
    ]  # fmt: skip


_ours: list[Embedded] = []


def own() -> Embedded | None:
    """The server that this process started."""
    return _ours[0] if _ours else None


def begin() -> None:
    """Start the server, unless it runs or another is configured. Of most use before Prefect is imported: both take
    seconds. Raises `InputError` where its database is damaged."""
    if _ours or prefect_address()[1]:
        return
    check_databases()
    _ours.append(Embedded())
    os.environ["PREFECT_API_URL"] = _ours[0].url
    if "prefect" in sys.modules:  # it has read its settings
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()


def prepare() -> None:
    """`begin`, and wait for it."""
    begin()
    if (server := own()) is not None:
        server.wait()


def making_database() -> AbstractContextManager[Callable[[], None]]:
    """Around the first start of a server on Prefect's database, where it is a file of this machine."""
    return making(prefect_database())
