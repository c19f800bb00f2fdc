"""Several machines: the same flow on a Ray cluster, where ``$COLINEAR_RAY`` names one.

``auto`` is the cluster that this machine is a node of, ``HOST:PORT`` one by its head, ``ray://HOST:PORT`` one that this
machine is no part of. Nodes share nothing with this machine but the MLflow server, which carries every artifact, and
Prefect's server; both are checked on every node before work starts. `flows.cluster.ray_runner` runs the tasks.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from flows.servers import prefect_server
from tasks.core import home
from tasks.core.errors import InputError
from tasks.core.results import EXTERNAL, ModelRef
from tasks.core.secrets import redact, without_password
from tasks.models.external import FILES
from tasks.storage.published import publish
from tasks.storage.store import open_store
from tasks.workers.devices import describe_machine

VARIABLE = "COLINEAR_RAY"
REACH_SECONDS = 10.0
NODE_SECONDS = 180.0
"""For a node's first process: its imports, and MLflow's."""


_joining = threading.Lock()


def wanted() -> str | None:
    """The cluster's address, or None for this machine alone."""
    return os.environ.get(VARIABLE) or None


def task_runner() -> Any:
    """Where a flow's tasks run: in threads of this process, which wait for device slots; or on the cluster."""
    if wanted() is None:
        from prefect.task_runners import ThreadPoolTaskRunner

        return ThreadPoolTaskRunner(max_workers=64)
    _import_ray()
    from flows.cluster.ray_runner import ClusterRunner

    return ClusterRunner(wanted())


def connect() -> None:
    """Join the cluster that is wanted, unless that is done. Raises `InputError` where a study could not run on it."""
    address = wanted()
    if address is None:
        return
    with _joining:  # studies of one sweep come here at once
        if not _joined():
            _join(address)


def _join(address: str) -> None:
    _check_servers()
    _reach(address)
    ray = _import_ray()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        with _silent():
            ray.init(
                address,
                namespace="colinear",
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": _node_environment()},
            )
    except Exception as error:  # no cluster, a token that it does not know, another version of Ray or Python
        raise InputError(
            f"{VARIABLE}: cannot join the Ray cluster {address}: {_last_line(error)} (its RAY_AUTH_MODE and "
            "RAY_AUTH_TOKEN, and its versions of Ray and Python, must be those of this process)"
        ) from error
    try:
        _check_nodes(ray)
    except BaseException:
        ray.shutdown()
        raise


@contextmanager
def _silent() -> Iterator[None]:
    """Ray's C++ writes its tries to the terminal by itself; what came of them is said in one line."""
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _joined() -> bool:
    """Also in a node's process, which comes here with its copy of the flow."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def machine() -> str:
    """What a study runs on, for its record: the cluster, or this machine."""
    if not _joined():
        return describe_machine()
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cores, gpus = (sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
    return f"a Ray cluster of {len(nodes)} nodes, which count {cores:.0f} CPU cores and {gpus:.0f} GPU"


def for_nodes(base: ModelRef) -> ModelRef:
    """The base as nodes can have it: a folder of this machine becomes an MLflow artifact, once, of the same digest."""
    if wanted() is None or not base.ref.kind.startswith(EXTERNAL):
        return base
    return replace(base, ref=publish(open_store(), base.ref, FILES))


def _import_ray() -> Any:
    try:
        import prefect_ray  # noqa: F401
        import ray
    except ImportError as error:
        raise InputError(
            f"{VARIABLE}: Ray is not installed here ({error}); pip install -c constraints.txt '.[ray]', "
            "or unset it to run on this machine alone"
        ) from None
    return ray


def _check_servers() -> None:
    """What nodes must reach has to have an address."""
    tracking = os.environ.get("MLFLOW_TRACKING_URI", "")
    if urlsplit(tracking).scheme not in ("http", "https"):
        raise InputError(
            f"MLFLOW_TRACKING_URI: {tracking or 'the local database'} is on this machine, and {VARIABLE} needs a store "
            "that all nodes reach: start `mlflow server --artifacts-destination DIR` and give its http:// address"
        )
    if not prefect_server.api():
        raise InputError(
            f"PREFECT_API_URL: not set, and {VARIABLE} needs a Prefect server that all nodes reach: start `prefect "
            "server start` and give its http://HOST:PORT/api"
        )


def _reach(address: str) -> None:
    """Raise `InputError` where nobody listens: Ray itself tries for half a minute and more."""
    if address == "auto":
        return
    where = urlsplit(address if "://" in address else f"ray://{address}")
    try:
        port = where.port
    except ValueError:  # no number, or none of a port
        port = None
    if where.scheme != "ray" or not where.hostname or port is None:
        raise InputError(f"{VARIABLE}: expected auto, HOST:PORT or ray://HOST:PORT, got {address!r}")
    try:
        socket.create_connection((where.hostname, port), timeout=REACH_SECONDS).close()
    except OSError as error:
        raise InputError(f"{VARIABLE}: no Ray cluster answers at {address} ({error.strerror or error})") from None


def _node_environment() -> dict[str, str]:
    """What nodes' processes must have in their environment before they import anything.

    Passwords and keys are not among it, for Ray shows it on its pages, nor are paths of this machine.
    """
    home.quiet_environment()
    names = [*home.QUIET, "MLFLOW_TRACKING_URI", "COLINEAR_HANG_SECONDS", "COLINEAR_SERVER_PATIENCE"]
    return {name: os.environ[name] for name in names if name in os.environ}


def _check_nodes(ray: Any) -> None:
    """Every living node can import colinear and reach both servers. Raises `InputError` naming the first that cannot.

    The nodes are asked all at once, and asking takes none of their devices.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ask = ray.remote(num_cpus=0)(node_complaint)
    asked = {
        f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}:{node['NodeManagerPort']})": ask.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(str(prefect_server.api()))
        for node in ray.nodes()
        if node["Alive"]
    }
    for node, reply in asked.items():
        try:
            complaint = ray.get(reply, timeout=NODE_SECONDS)
        except Exception as error:  # colinear or a library is missing there, another Python, a node that is gone
            complaint = _last_line(error)
        if complaint:
            raise InputError(f"{VARIABLE}: node {node}: {complaint}")


def node_complaint(prefect_api: str) -> str | None:
    """Run on a node: why a study could not run there, or None."""
    home.quiet_environment()
    try:
        store = open_store()
        places = [store.client.get_experiment(name).artifact_location for name in store.experiments.values()]
    except InputError as error:
        return str(error)
    except Exception as error:
        return f"MLFLOW_TRACKING_URI: {redact(str(error))}"
    if complaint := disk_complaint(places):
        return f"MLFLOW_TRACKING_URI: {without_password(store.uri)} {complaint}"
    try:
        urllib.request.urlopen(f"{prefect_api}/health", timeout=REACH_SECONDS).close()
    except OSError as error:
        return f"PREFECT_API_URL: {prefect_api}: {error}"
    return None


def disk_complaint(places: Sequence[str]) -> str | None:
    """Of the artifact locations of MLflow's experiments: None where every machine can read and write them."""
    folder = next((place for place in places if urlsplit(place).scheme in ("", "file")), None)
    if folder is None:
        return None
    return (
        f"keeps artifacts in {folder}, which is no place for other machines: start `mlflow server` with "
        "--artifacts-destination and a new database"
    )


def _last_line(error: Exception) -> str:
    """Ray puts a node's traceback before the line that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
