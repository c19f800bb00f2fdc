"""Prefect's server as a run meets it: there at the start, or refused; away for a while; and back.

What Prefect 3.7 does while it is away: tasks go on, for their states are kept in this process and sent beside the work,
again and again. But a flow run that begins or ends then is lost after `PREFECT_CLIENT_MAX_RETRIES` tries, so flows wait
here before they do either.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tasks.core.errors import InputError, StageError
from tasks.core.login import prefect_address
from tasks.core.secrets import without_password
from tasks.storage.patience import Server, trouble_of

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

VARIABLE = "PREFECT_API_URL"
REACH_SECONDS = 5.0
"""Of a try; there are two at the start."""

WATCH_SECONDS = 1.0
LEAVE_SECONDS = 30.0


def api() -> str | None:
    """The server that is configured; None where Prefect runs an embedded one."""
    from prefect.settings import get_current_settings

    return get_current_settings().api.url


def check() -> None:
    """Raise `InputError` where a server is configured and does not answer as one; Prefect would try for minutes."""
    uri = api()
    if uri is None:
        return
    with _asking(tries=2) as client:
        complaint = _complaint(client)
    if complaint:
        where = prefect_address()[0] or VARIABLE
        way_out = "unset the variable" if where == VARIABLE else "take the line out"
        raise InputError(f"{where}: {complaint % without_password(uri)}; start it, or {way_out}")


@contextmanager
def _asking(tries: int) -> Iterator[SyncPrefectClient]:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    with (
        temporary_settings({PREFECT_CLIENT_MAX_RETRIES: tries - 1}),
        get_client(sync_client=True, httpx_settings={"timeout": REACH_SECONDS}) as client,
    ):
        yield client


def _complaint(client: SyncPrefectClient) -> str:
    import prefect

    ours = prefect.__version__.partition(".")[0]
    try:
        version = client.api_version()
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            return f"the Prefect server at %s does not let us in ({status}); give PREFECT_API_AUTH_STRING"
        if trouble := trouble_of(error):
            return f"no Prefect server answers at %s ({trouble.reason})"
        if status is None and not isinstance(error, ValueError):
            return f"no Prefect server answers at %s ({type(error).__name__})"
        said = f"status {status}" if status else "no JSON"
        return f"what answers at %s is no Prefect server ({said}); its address ends in /api"
    if not isinstance(version, str) or version.partition(".")[0] != ours:
        return f"what answers at %s is no server of Prefect {ours}"
    return ""


def named(error: BaseException) -> StageError | None:
    """What is said where ``error`` is that Prefect's client could not reach its server, or that it cannot work.

    Where the run had failed before, that comes first: a disk that is full fails both.
    """
    client = type(error).__module__.partition(".")[0] in ("httpx", "httpcore", "prefect")
    trouble = trouble_of(error)
    if not client or trouble is None:
        return None
    where = f" at {without_password(uri)}" if (uri := api()) else "'s embedded server"
    said = "does not answer" if trouble.away else f"does not work ({trouble.reason})"
    failure = f"{first}; " if (first := _first(error)) else ""
    return StageError(f"{failure}Prefect{where} {said}; the run's end is not recorded there")


def _first(error: BaseException) -> str:
    """What had failed when Prefect was told of it."""
    before = error.__context__
    while before is not None and (not isinstance(before, StageError | OSError) or trouble_of(before)):
        before = before.__context__
    return str(before or "")


def retries() -> AbstractContextManager[object]:
    """Within it, Prefect's client asks its embedded server once only where that answers 500: on this machine it is not
    a moment's trouble but a full disk, which it would wait for 4 minutes at every turn."""
    from prefect.settings import PREFECT_CLIENT_RETRY_EXTRA_CODES, temporary_settings

    return nullcontext() if api() else temporary_settings({PREFECT_CLIENT_RETRY_EXTRA_CODES: "504"})


def leave_within(seconds: float = LEAVE_SECONDS) -> None:
    """End this process as failed, at the latest then: at its end Prefect tries for minutes to send logs and events."""
    guard = threading.Timer(seconds, os._exit, (1,))
    guard.daemon = True
    guard.start()


@lru_cache(maxsize=4)
def _server(uri: str) -> Server:
    return Server("Prefect", uri)


def wait_until_there() -> None:
    """Wait, as long as $COLINEAR_SERVER_PATIENCE says, for a configured server. Raises `StageError`."""
    uri = api()
    if uri is not None:
        _server(uri).call(_ask)


def send_rest() -> None:
    """Have Prefect send again what a server that was away, or was killed, has not confirmed (states of task runs): it
    does so with the next event only, so it gets one."""
    from prefect.events import emit_event

    emit_event("colinear.recorded", {"prefect.resource.id": "colinear"})


def _ask() -> None:
    """By Prefect's own client: what it needs to get there (certificates, headers, a key) is in its settings."""
    with _asking(tries=1) as client:
        failed = client.api_healthcheck()
    if failed is not None:
        raise ConnectionError from failed


class _Watch:
    """Starts the embedded server again where it was killed; what it knew is in its database."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._over = threading.Event()
        self._starting = threading.Lock()
        threading.Thread(target=self._run, daemon=True).start()

    def end(self) -> None:
        """Before Prefect stops its server: that is no accident."""
        with self._starting:
            self._over.set()

    def _run(self) -> None:
        while not self._over.wait(WATCH_SECONDS):
            with self._starting:
                process = self._server.server_process
                if process is not None and process.poll() is not None and not self._over.is_set():
                    logging.getLogger("colinear").warning("Prefect's embedded server ended; it is started again")
                    self._server.server_process = self._server._run_uvicorn_command()


@lru_cache(maxsize=1)
def watch() -> None:
    """Watch over the embedded server, which runs since the first client asked for it."""
    if api() is None:
        from prefect.server.api.server import SubprocessASGIServer

        atexit.register(_Watch(SubprocessASGIServer()).end)
