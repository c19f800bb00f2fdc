"""What the commands that run a flow share: Prefect and MLflow started at once, the display, an orderly end."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
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
    from tasks import home

    home.quiet_environment()
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")  # our display says it; the API has all


def run_flow(run: Callable[[], Returned], console: Console) -> Returned:
    """Run a flow with the display, on Prefect's embedded server where no other is configured."""
    from flows.embedded import load_tables, prepare, settle
    from flows.terminal import StudyDisplay
    from tasks import devices
    from tasks.events import listening
    from tasks.store import open_store

    load_tables()
    opening = threading.Thread(target=_quietly, args=(open_store,), daemon=True)  # overlaps with Prefect's start
    opening.start()
    prepare()
    opening.join()
    display = StudyDisplay(console)
    try:
        with display, listening(display):
            outcome = run()
    except BaseException:
        devices.stop()  # nothing of ours outlives the command, however it ends
        raise
    settle(outcome.flow_run)
    return outcome


def _quietly(function: Callable[[], object]) -> None:
    """The flow will call it again and report; here it only has to be begun."""
    from tasks.contracts import StageError

    try:
        function()
    except StageError:
        return
