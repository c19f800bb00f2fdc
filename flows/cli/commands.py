"""What the commands that run a flow share: Prefect and MLflow started at once, the display, an orderly end."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from rich.console import Console


class Outcome(Protocol):
    """What a flow returns."""

    @property
    def flow_run(self) -> str:
        """Prefect's id of the flow run."""


Returned = TypeVar("Returned", bound=Outcome)


def quiet() -> None:
    """Call before Prefect or MLflow is imported: no telemetry, and nothing on the console but our own display."""
    from tasks.core import home
    from tasks.storage.state import check_proxies, check_writable

    check_writable()
    check_proxies()
    home.quiet_environment()
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")  # our display says it; the API has all
    os.environ.setdefault("PREFECT_INTERNAL_LOGGING_LEVEL", "CRITICAL")  # every event that a killed server did not get


def run_flow(run: Callable[[], Returned], console: Console) -> Returned:
    """Run a flow with the display, on Prefect's embedded server where no other is configured.

    Raises `InputError` before anything is begun where a configured server does not answer.
    """
    from flows.cli.terminal import StudyDisplay
    from flows.servers import embedded, prefect_server
    from tasks.core.events import listening
    from tasks.storage.state import check_databases
    from tasks.storage.store import open_store
    from tasks.workers import devices

    check_databases()
    embedded.begin()
    logging.raiseExceptions = False  # Prefect would write to the terminal what it cannot log while its server is away
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(open_store)  # overlaps with Prefect's start
        if os.environ.get("MLFLOW_TRACKING_URI", "").startswith("http"):
            opening.result()
        prefect_server.check()
        embedded.prepare()
        opening.result()
    display = StudyDisplay(console)
    try:
        with display, listening(display), prefect_server.retries():
            outcome = run()
    except BaseException as error:
        devices.stop()  # nothing of ours outlives the command, however it ends
        if said := prefect_server.named(error):
            prefect_server.leave_within()
            raise said from error
        raise
    prefect_server.settle(outcome.flow_run)
    return outcome
