"""Prefect's embedded server: started once under a lock, and given time to write down what happened."""

from __future__ import annotations

import os
import time
from uuid import UUID

from filelock import FileLock

from tasks import home

SETTLE_SECONDS = 20.0


def load_tables() -> None:
    """Define Prefect's database classes now. MLflow's first connection makes SQLAlchemy configure every class that it
    knows; in another thread, half of Prefect's being defined, that fails for the whole process."""
    import prefect.server.database.orm_models  # noqa: F401


def prepare() -> None:
    """Start what the first flow run would start: two processes that make a fresh Prefect database at once race."""
    from prefect.client.orchestration import get_client

    with FileLock(home.home() / "prefect-init.lock"), get_client(sync_client=True) as client:
        client.hello()


def settle(flow_run: str) -> None:
    """Wait until the embedded server has recorded every task run as final; it loses those it has not when we exit."""
    if os.environ.get("PREFECT_API_URL") or not flow_run:
        return
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

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
