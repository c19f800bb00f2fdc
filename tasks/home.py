"""Where colinear keeps its state on this machine. A leaf.

``$COLINEAR_HOME`` (default ``.colinear`` in the working folder) holds the MLflow store, Prefect's own database, logs
and locks. ``$MLFLOW_TRACKING_URI``, ``$PREFECT_API_URL`` and ``$PREFECT_HOME``, where set, are used as they are.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tasks.secrets import guard

FULL_BYTES = 2**20
"""A disk with less room than this is full: what failed on it failed for that."""


def home() -> Path:
    """The state folder, made on first use."""
    path = Path(os.environ.get("COLINEAR_HOME") or ".colinear").expanduser().absolute()
    path.mkdir(parents=True, exist_ok=True)
    return path


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


def quiet_environment() -> None:
    """Set what must be in the environment before Prefect, MLflow or a worker process starts; never overrides.

    But for a password in a server's URL, which moves to where no error repeats it (`tasks.secrets.guard`).
    """
    guard()
    for name, value in {**QUIET, "PREFECT_HOME": str(home() / "prefect")}.items():
        os.environ.setdefault(name, value)
