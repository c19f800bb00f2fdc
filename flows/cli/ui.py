"""``colinear ui``: Prefect's server and MLflow's on loopback, with this project's stores, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from flows.servers import embedded
from flows.servers import processes as servers
from tasks.core import home, login
from tasks.core.errors import InputError, StageError
from tasks.storage.making import making
from tasks.storage.state import check_writable, mlflow_database, tracking_uri

if TYPE_CHECKING:
    from rich.console import Console

WATCH_SECONDS = 0.5
LOOKED_AT_SECONDS = 0.5
"""Others take the lock for a moment, to see whether anybody has it."""


def run(prefect_port: int, mlflow_port: int) -> int:
    """Start the servers, and stop them when Ctrl-C comes."""
    from rich.console import Console

    check_writable()
    home.quiet_environment()
    console = Console(soft_wrap=True, highlight=False)
    prefect, mlflow = _existing_prefect(), _existing_mlflow()
    if prefect and mlflow:
        _show(servers.Addresses(prefect, mlflow), console)
        console.print("Both run already ($PREFECT_API_URL, $MLFLOW_TRACKING_URI): nothing was started.")
        return 0
    if not prefect and not mlflow and prefect_port == mlflow_port:
        raise InputError(f"--mlflow-port: {mlflow_port} is Prefect's port as well; give two different ones")
    with _alone(), _signals() as stopped:
        if not prefect:
            servers.check_port("--prefect-port", prefect_port)
        if not mlflow:
            servers.check_port("--mlflow-port", mlflow_port)
        try:
            return _run((prefect_port, mlflow_port), prefect, mlflow, stopped, console)
        except StageError as error:
            console.print(f"colinear ui: {error}; both were stopped", markup=False, style="red")
            return 1


def _existing_prefect() -> str | None:
    """The server that this environment or its Prefect profile names. Raises `InputError` where it does not answer."""
    from prefect.settings import get_current_settings

    api = get_current_settings().api.url
    if api and not servers.healthy_prefect(api):
        raise InputError(f"PREFECT_API_URL: no Prefect server answers at {api}; start it, or unset the variable")
    return api


def _existing_mlflow() -> str | None:
    from tasks.core.secrets import without_password

    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri.startswith(("http://", "https://")):
        return None  # a database or a folder is a store, not a server
    if not servers.healthy_mlflow(uri):
        raise InputError(
            f"MLFLOW_TRACKING_URI: no MLflow server answers at {without_password(uri)}; start it, or unset the variable"
        )
    return without_password(uri)


@contextmanager
def _alone() -> Iterator[None]:
    """One `colinear ui` a state folder: two schedulers on one database would start everything twice."""
    lock = FileLock(home.home() / login.LOCK)
    try:
        lock.acquire(timeout=LOOKED_AT_SECONDS)
    except Timeout:
        found = servers.running()
        where = f" at {found.prefect_ui} and {found.mlflow}" if found else ", still starting"
        raise InputError(f"colinear ui: it runs already for {home.home()}{where}; use that, or stop it first") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C, SIGTERM and a closed terminal set, wherever the program is just then."""
    stopped = threading.Event()
    caught = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: stopped.set()) for number in caught}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(
    ports: tuple[int, int],
    prefect: str | None,
    mlflow: str | None,
    stopped: threading.Event,
    console: Console,
) -> int:
    """Start what is not there already, tell where it is, and watch over it until we are to stop."""
    started: list[servers.Server] = []
    began = time.monotonic()
    with ExitStack() as stack:
        stack.callback(servers.stop, started)
        # A study that starts now waits at these locks: two processes that make a fresh database at once race.
        with (
            FileLock(home.home() / "prefect-init.lock"),
            FileLock(home.home() / "init.lock"),
            embedded.making_database() as made_prefect,
            making(mlflow_database(tracking_uri())) as made_mlflow,
        ):
            if not prefect:
                started.append(servers.start_prefect(ports[0]))
            if not mlflow:
                started.append(_start_mlflow(ports[1]))
            names = " and ".join(server.name for server in started)
            with _telling(f"starting {names} (10 to 20 s)", console):
                if not all(server.wait(stopped.is_set) for server in started):
                    return 0
            made_prefect()
            made_mlflow()
        urls = {server.name: server.url for server in started}
        addresses = servers.Addresses(prefect or urls["Prefect"], mlflow or urls["MLflow"])
        ours = [address for address in (addresses.prefect, addresses.mlflow) if address in urls.values()]
        login.remember(home.home(), addresses.prefect, addresses.mlflow, ours)
        stack.callback(login.forget, home.home())
        _show(addresses, console)
        console.print(f"Log in   {servers.how_to_log_in()}", markup=False)
        console.print(f"Ready after {time.monotonic() - began:.0f} s. Ctrl-C stops {names}.")
        while not stopped.wait(WATCH_SECONDS):
            for server in started:
                server.check()
        console.print(f"stopping {names}")
    return 0


def _start_mlflow(port: int) -> servers.Server:
    """On the store that studies write, or the one that ``$MLFLOW_TRACKING_URI`` names."""
    return servers.start_mlflow(port, tracking_uri(), home.subfolder("artifacts"))


@contextmanager
def _telling(what: str, console: Console) -> Iterator[None]:
    if console.is_terminal:
        with console.status(what):
            yield
    else:
        console.print(what)
        yield


def _show(addresses: servers.Addresses, console: Console) -> None:
    console.print(f"Prefect  {addresses.prefect_ui}   [dim]studies as they run, deployments, schedules[/]")
    console.print(f"MLflow   {addresses.mlflow}   [dim]runs side by side, adapters, reports[/]")
    console.print(f"State    {home.home()}")
