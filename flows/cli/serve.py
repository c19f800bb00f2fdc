"""``colinear serve``: studies, comparisons and sweeps started from Prefect's pages or by its clock, on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flows.servers import processes as servers
from flows.servers.automations import HEARTBEAT_SECONDS, register
from tasks.core import home
from tasks.core.errors import InputError
from tasks.core.login import served
from tasks.storage.state import check_writable

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment

    from flows.servers.deployables import Deployable, Timetable


def run(limit: int, webhook: str | None) -> int:
    """Serve until Ctrl-C."""
    from rich.console import Console

    if webhook is not None and urlsplit(webhook).scheme not in ("http", "https"):
        raise InputError(f"--webhook: expected an http:// or https:// address, got {webhook!r}")
    check_writable()
    # For us and for the runs' processes. The login is given to the server that this names, if that is ours.
    os.environ |= {"PREFECT_API_URL": _find_server(), "COLINEAR_HOME": str(home.home())}
    home.quiet_environment()
    api = os.environ["PREFECT_API_URL"]
    os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", str(HEARTBEAT_SECONDS))
    os.environ["PYTHONSAFEPATH"] = "1"  # a run's process begins here: a datasets.py in this folder is no library

    from prefect import serve

    from flows.servers.deployables import deployables

    offered = deployables()
    console = Console(soft_wrap=True, highlight=False)
    names = register(webhook)
    page = f"{servers.ui_of(api)}/deployments"
    console.print(f"{len(offered)} deployments at {page}: {', '.join(one.title for one in offered)}")
    if api in served(home.home()):
        console.print(f"Log in: {servers.how_to_log_in()}", markup=False)
    console.print(f"Schedules begin paused. Automations: {', '.join(names)}.")
    console.print(f"At most {limit} runs at once, reports under {Path('runs').absolute()}. Ctrl-C stops them.")
    serve(*map(_served, offered), limit=limit, print_starting_message=False)
    return 0


def _find_server() -> str:
    """The API of the server to serve. Raises `InputError` where there is none."""
    if given := os.environ.get("PREFECT_API_URL"):
        if not servers.healthy_prefect(given):
            raise InputError(f"PREFECT_API_URL: no Prefect server answers at {given}; start it, or unset the variable")
        return given
    if (found := servers.running()) is None:
        raise InputError(
            f"colinear serve: no Prefect server for {home.home()}: run `colinear ui` in another terminal first, or set "
            "PREFECT_API_URL"
        )
    return found.prefect


def _served(offered: Deployable) -> RunnerDeployment:
    from prefect.deployments.runner import EntrypointType, RunnerDeployment

    return RunnerDeployment.from_flow(
        offered.flow,
        name=offered.name,
        description=offered.description,
        parameters=offered.parameters,
        tags=list(offered.tags),
        schedules=[_schedule(one) for one in offered.timetables],
        entrypoint_type=EntrypointType.MODULE_PATH,
    )


def _schedule(timetable: Timetable) -> Any:
    from prefect.client.schemas.actions import DeploymentScheduleCreate

    return DeploymentScheduleCreate(
        schedule=timetable.times(), active=False, parameters=timetable.parameters, slug=timetable.slug
    )
