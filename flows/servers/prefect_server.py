"""Prefect's server as a run meets it: there at the start, or refused; away for a while; and back.

What Prefect 3.7 does while it is away: tasks go on, for their states are kept in this process and sent beside the work,
again and again. But a flow run that begins or ends then is lost after `PREFECT_CLIENT_MAX_RETRIES` tries, so flows wait
here before they do either.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from typing import TYPE_CHECKING
from uuid import UUID

from flows.servers import embedded
from tasks.core.errors import InputError, StageError
from tasks.core.login import prefect_address
from tasks.core.secrets import without_password
from tasks.storage.patience import Aside, Server, trouble_of

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

VARIABLE = "PREFECT_API_URL"
REACH_SECONDS = 5.0
"""Of a try; there are two at the start."""

SETTLE_SECONDS = 20.0
LEAVE_SECONDS = 30.0


def api() -> str | None:
    """The server that is configured; None where it is the embedded one."""
    from prefect.settings import get_current_settings

    url = get_current_settings().api.url
    return None if (ours := embedded.own()) and url == ours.url else url


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


def settle(flow_run: str) -> None:
    """Wait until the embedded server has recorded every task run as final; it loses those it has not when we exit."""
    if api() or not flow_run:
        return
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.events.worker import EventsWorker

    send_rest()
    sending = Aside()
    sending.start(EventsWorker.instance().wait_until_empty)
    sending.wait(SETTLE_SECONDS)
    mine = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(flow_run)]))
    deadline = time.monotonic() + SETTLE_SECONDS
    with get_client(sync_client=True) as client:
        while time.monotonic() < deadline:
            offset, pending = 0, 0
            while page := client.read_task_runs(flow_run_filter=mine, limit=200, offset=offset):
                pending += sum(run.state is None or not run.state.is_final() for run in page)
                offset += len(page)
            if not pending:
                return
            time.sleep(0.2)
