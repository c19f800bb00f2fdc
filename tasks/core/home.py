"""Where colinear keeps its state on this machine. A leaf.

``$COLINEAR_HOME`` (default ``.colinear`` in the working folder) holds the MLflow store, Prefect's own database, logs
and locks. ``$MLFLOW_TRACKING_URI``, ``$PREFECT_API_URL`` and ``$PREFECT_HOME``, where set, are used as they are.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from tasks.core import login
from tasks.core.secrets import guard

FULL_BYTES = 2**20
"""Below this much free space a failed write is reported as 'disk full'."""


def home() -> Path:
    """The state folder, made on first use, and closed to other users of the machine."""
    path = Path(os.environ.get("COLINEAR_HOME") or ".colinear").expanduser().absolute()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if is_open(path) and not _is_common(path):
        with suppress(OSError):  # a file system without modes: `colinear doctor` says it
            path.chmod(0o700)
    return path


def is_open(path: Path) -> bool:
    """Whether others than its owner may do anything in a folder."""
    return bool(path.stat().st_mode & 0o077)


def _is_common(path: Path) -> bool:
    """Whether a folder is meant for others as well: not ours, or with a bit that says so (set-group-ID, sticky), or one
    that whole machines and accounts hang on."""
    there = path.stat()
    shared = there.st_mode & (stat.S_ISGID | stat.S_ISVTX)
    return bool(shared) or there.st_uid != os.getuid() or path in (Path("/"), Path.home())


def subfolder(name: str) -> Path:
    """``home()/name``, made on first use."""
    path = home() / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def machine_folder() -> Path:
    """One folder a user and machine, whatever the store: device slots are the machine's, not a study's."""
    path = Path(tempfile.gettempdir()) / f"colinear-{os.getuid()}"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


SOCKET_FOLDER_BYTES = 60
"""Of a folder's name, so that a socket in it can be bound: its whole path has at most 103 (macOS) or 107 (Linux), and
multiprocessing and vLLM put up to 37 behind it."""


def socket_folder() -> Path:
    """A temporary folder whose name is short enough for sockets: the usual one where it is."""
    places = [tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR") or "/tmp", "/tmp", "/var/tmp", "/dev/shm"]
    fit = [place for place in places if len(os.fsencode(place)) <= SOCKET_FOLDER_BYTES and os.access(place, os.W_OK)]
    return Path((fit or places)[0])


def full_disk(paths: Iterable[Path]) -> str:
    """What to add to an error: which of the places that were written to has no room. Writers seldom say so."""
    for path in paths:
        folder = next(one for one in (path, *path.parents) if one.is_dir())
        if os.access(folder, os.W_OK) and shutil.disk_usage(folder).free < FULL_BYTES:
            return f"; the disk of {folder} is full: make room, then run the same command again"
    return ""


QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # what the terminal shows is ours
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MLFLOW_TRUNCATE_LONG_VALUES": "false",
    # Through MLflow's server: left alone it sends clients to its object store, which only it may be able to reach.
    "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false",
    "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "false",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "colinear",  # what is said of a server that is away stands in the run's log too
    # While Prefect's server is away its client asks again for 4 minutes (2 + 4 + ... + 128 s), also after a 500.
    "PREFECT_CLIENT_MAX_RETRIES": "7",
    "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500,504",
    # MLflow's would ask again by itself, and make a run twice whose first answer was lost (`tasks.storage.patience`).
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
}
"""What must be in the environment of every process, on whatever machine."""


LOOPBACK = ("127.0.0.1", "localhost", "::1")


def proxies() -> dict[str, str]:
    """The variables that name a proxy, by name."""
    names = ("http_proxy", "https_proxy", "all_proxy")
    return {name: value for name, value in os.environ.items() if name.lower() in names and value}


def past_proxies() -> None:
    """Where a proxy is set, have every client in this process and its children reach this machine without it.

    In both spellings: where both are set, some clients read the one and some the other.
    """
    if not proxies():
        return
    known = [part.strip() for name in ("no_proxy", "NO_PROXY") for part in os.environ.get(name, "").split(",")]
    hosts = ",".join(dict.fromkeys([*filter(None, known), *LOOPBACK]))
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = "*" if "*" in known else hosts


def quiet_environment() -> None:
    """Set what must be in the environment before Prefect, MLflow or a worker process starts; never overrides.

    But for a password in a server's URL, which moves to where no error repeats it (`tasks.core.secrets.guard`), for the
    hosts that proxies are not for, and for the login of our own servers (`tasks.core.login`).
    """
    guard()
    past_proxies()
    if socket_folder() != Path(tempfile.gettempdir()):
        os.environ.setdefault("VLLM_RPC_BASE_PATH", str(socket_folder()))
    for name, value in {**QUIET, "PREFECT_HOME": str(home() / "prefect")}.items():
        os.environ.setdefault(name, value)
    login.present(home())
