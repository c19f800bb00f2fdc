"""``colinear serve``: studies, comparisons and sweeps started from Prefect's pages or by its clock, on this machine."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flows.servers import processes as servers
from flows.servers.automations import HEARTBEAT_SECONDS, register
from tasks.core import home
from tasks.core.contracts import InputError
from tasks.core.login import served
from tasks.storage.state import check_writable

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment

    from flows.servers.deployables import Deployable, Timetable

LIMIT = 2


def add_serve(commands: Any) -> None:
    """Add the subcommand to ``argparse``'s subparsers."""
    serve = commands.add_parser(
        "serve",
        help="start studies from Prefect's pages or on a schedule, in processes of this machine",
        description="Needs a Prefect server: `colinear ui`, or the one that $PREFECT_API_URL names. Registers a "
        "deployment for each preset, for comparisons and for sweeps, with example schedules that begin paused, and "
        "runs what is asked for until Ctrl-C. Runs share this machine's devices: each stage waits for a free one.",
    )
    serve.add_argument("--limit", type=_count, default=LIMIT, metavar="N", help=f"most runs at once (default {LIMIT})")
    serve.add_argument(
        "--webhook", metavar="URL", help="POST a JSON message here when a run fails, crashes or has its report"
    )
    serve.set_defaults(run=_serve)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def _serve(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    if arguments.webhook is not None and urlsplit(arguments.webhook).scheme not in ("http", "https"):
        raise InputError(f"--webhook: expected an http:// or https:// address, got {arguments.webhook!r}")
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
    names = register(arguments.webhook)
    page = f"{servers.ui_of(api)}/deployments"
    console.print(f"{len(offered)} deployments at {page}: {', '.join(one.title for one in offered)}")
    if api in served(home.home()):
        console.print(f"Log in: {servers.how_to_log_in()}", markup=False)
    console.print(f"Schedules begin paused. Automations: {', '.join(names)}.")
    console.print(
        f"At most {arguments.limit} runs at once, reports under {Path('runs').absolute()}. Ctrl-C stops them."
    )
    serve(*map(_served, offered), limit=arguments.limit, print_starting_message=False)
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
