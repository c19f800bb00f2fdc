"""Runs of processes that were killed: MLflow and Prefect would show them as running for ever.

Who opens the next study, comparison or sweep of the state folder closes them: by the locks of `tasks.storage.store` in
MLflow, and by what MLflow's run says of Prefect's there.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from uuid import UUID

from tasks.storage.store import open_store

TAG = "prefect.flow_run"


def open_recorded(name: str, tags: Mapping[str, str], params: Mapping[str, Any]) -> str:
    """Start a parent run in MLflow for the flow run that we are in."""
    from prefect import runtime

    own = {TAG: str(runtime.flow_run.id)} if runtime.flow_run.id else {}
    return open_store().open_study(name, {**tags, **own}, params, closed=_bury)


def _bury(tags: Mapping[str, str]) -> None:
    """Tell Prefect that the flow run of a dead study has crashed; a server that does not know it is not told."""
    if TAG not in tags:
        return
    from prefect.client.orchestration import get_client
    from prefect.states import Crashed

    with suppress(Exception), get_client(sync_client=True) as client:  # only what people see
        flow_run = client.read_flow_run(UUID(tags[TAG]))
        if flow_run.state is None or not flow_run.state.is_final():
            client.set_flow_run_state(flow_run.id, Crashed(message="Its process was killed."), force=True)
