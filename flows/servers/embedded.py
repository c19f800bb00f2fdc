"""Prefect's embedded server: started once under a lock, ended with us, and given time to write down what happened."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any
from uuid import UUID

from filelock import FileLock

from flows.servers import orphans, prefect_server
from tasks.core import home
from tasks.storage.making import making
from tasks.storage.patience import Aside
from tasks.storage.state import prefect_database

if TYPE_CHECKING:
    import subprocess

SETTLE_SECONDS = 20.0


def load_tables() -> None:
    """Define Prefect's database classes now. MLflow's first connection makes SQLAlchemy configure every class that it
    knows; in another thread, half of Prefect's being defined, that fails for the whole process."""
    import prefect.server.database.orm_models  # noqa: F401


def prepare() -> None:
    """Start what the first flow run would start: two processes that make a fresh Prefect database at once race."""
    from prefect.client.orchestration import get_client
    from prefect.settings import get_current_settings

    with FileLock(home.home() / "prefect-init.lock"), making_database() as made:
        if not get_current_settings().api.url:
            _watch_server()
        with get_client(sync_client=True) as client:
            client.hello()
        made()


def making_database() -> AbstractContextManager[Callable[[], None]]:
    """Around the first start of a server on Prefect's database, where it is a file of this machine."""
    return making(prefect_database())


def _watch_server() -> None:
    """Have every embedded server that this process starts end with it, also where it is killed.

    Prefect has no hook for this. ``SubprocessASGIServer()`` gives the one instance that there is, to everything in
    Prefect that asks for it, and the first to be made is that instance (Prefect's own test utilities put theirs there).
    """
    from prefect.server.api.server import SubprocessASGIServer

    class Watched(SubprocessASGIServer):
        def _run_uvicorn_command(self) -> subprocess.Popen[Any]:
            process = super()._run_uvicorn_command()
            orphans.watch(process.pid)
            return process

    orphans.prepare()
    Watched()


def settle(flow_run: str) -> None:
    """Wait until the embedded server has recorded every task run as final; it loses those it has not when we exit."""
    if prefect_server.api() or not flow_run:
        return
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.events.worker import EventsWorker

    prefect_server.send_rest()
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
