"""The connection to MLflow: whether a server answers at all, and calls that wait while it is away."""

from __future__ import annotations

import logging
import posixpath
import re
import threading
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlsplit

from tasks.core import home
from tasks.core.errors import InputError, StageError
from tasks.core.secrets import redact, without_password
from tasks.storage.patience import Server, trouble_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

VARIABLE = "MLFLOW_TRACKING_URI"
REACH_SECONDS = 8
TRIES = 3
"""At the start, of a server that answers 5xx; one that does not answer is asked once."""

AT_ONCE = 6
"""Calls at a time. One can hold two connections of a database's pool, which has 15 here and in MLflow's server: of more
callers than that each would hold one and wait for another, until all time out."""

OPENED = "mlflow.colinear.opened"
"""Tag of a run: which call of ours made it. MLflow's pages do not show tags of this beginning."""

TRANSFERS = {"log_artifact": "an upload", "log_text": "an upload"}
"""What is said of a refused call, where its name would say nothing."""

_BROKEN = re.compile(r"\(sqlite3\.\w+\) ([^\n]*(?:disk|readonly|malformed|not a database|unable to open)[^\n]*)")
"""What SQLite says of a database of this machine that cannot be used: in the middle of a page of SQL otherwise."""

Answer = TypeVar("Answer")


class Tracking:
    """MLflow's client, twice: ``client`` waits its turn and for a server that is away, ``bare`` does not."""

    def __init__(self, uri: str) -> None:
        """Raises `InputError` where ``uri`` is a server's and no MLflow answers there."""
        home.quiet_environment()
        self.uri = uri
        self.where = without_password(uri)
        scheme = urlsplit(uri).scheme
        if scheme in ("http", "https"):
            _reach(uri)
        from mlflow import MlflowClient

        # Creating tables is nothing to tell a user, nor is a second try.
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # what it writes there it raises as well
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
        self.bare: MlflowClient = MlflowClient(tracking_uri=uri)
        self.server = None if scheme in ("", "file", "sqlite") else Server("MLflow", uri)
        self.client = cast("MlflowClient", _Patient(self))
        self._few = threading.BoundedSemaphore(AT_ONCE)

    def ask(self, what: str, ask: Callable[[], Answer], again: Callable[[], Answer] | None = None) -> Answer:
        """``ask()``, with patience (see `tasks.storage.patience.Server.call`).

        A server's refusal is a `StageError` that says of ``what``, unless MLflow has an exception for it. No message
        holds the URI's password.
        """
        if self.server is None:
            try:
                return self._among_few(ask)
            except Exception as error:
                if broken := _BROKEN.search(str(error)):
                    raise StageError(
                        f"MLflow's database {self.where.removeprefix('sqlite:///')}: {broken[1]}"
                    ) from error
                raise
        try:
            return self.server.call(partial(self._among_few, ask), again and partial(self._among_few, again))
        except (InputError, StageError):
            raise
        except Exception as error:
            if _is_an_answer(error):
                raise
            said = next(iter(redact(str(error)).splitlines()), "") or type(error).__name__
            raise StageError(f"{self.server.name} refused {what}: {said[:300]}") from None

    def _among_few(self, ask: Callable[[], Answer]) -> Answer:
        with self._few:
            return ask()

    def create_run(self, experiment: str, name: str, tags: Mapping[str, str]) -> str:
        """Start a run, once, also where the answer to the first try was lost."""
        token = uuid.uuid4().hex
        tags = {**tags, OPENED: token}

        def create() -> Run:
            return self.bare.create_run(experiment, run_name=name, tags=tags)

        def again() -> Run:
            found = self.bare.search_runs([experiment], f"tags.`{OPENED}` = '{token}'", max_results=1)
            return found[0] if found else create()

        return str(self.ask("a new run", create, again).info.run_id)

    def is_open_to(self, run_id: str, tag: str, value: str) -> bool:
        """Whether there is such a run, with this value of a tag; an error that it ended with is forgotten."""
        from mlflow.exceptions import MlflowException

        try:
            run = self.client.get_run(run_id)
        except MlflowException:
            return False
        if run.info.lifecycle_stage != "active" or run.data.tags.get(tag) != value:
            return False
        if "error" in run.data.tags:
            self.client.delete_tag(run_id, "error")
        return True

    def download(self, uri: str, out: Path) -> Path:
        """The files of an artifact URI in the new folder ``out``. Raises `InputError` where MLflow cannot give them."""
        from mlflow.artifacts import download_artifacts

        options = {"dst_path": str(out), "tracking_uri": self.uri}
        try:
            return Path(self.ask("a download", lambda: download_artifacts(self._location(uri), **options)))
        except Exception as error:  # MLflow's own, and those of each kind of artifact store
            said = next(iter(redact(str(error)).splitlines()), "") or type(error).__name__
            raise InputError(f"{uri}: not to be had from MLflow at {self.where}: {said}") from None

    def _location(self, uri: str) -> str:
        """Where a ``models:/`` URI points to; MLflow's own download would ask the process's global registry instead."""
        if not uri.startswith("models:/"):
            return uri
        from mlflow.store.artifact.utils.models import get_model_name_and_version

        match get_model_name_and_version(self.bare, uri):
            case (name, version):
                return str(self.bare.get_model_version_download_uri(name, version))
            case (model_id,):
                return str(self.bare.get_logged_model(model_id).artifact_location)
        raise ValueError("neither a registered nor a logged model")


class _Patient:
    """Stands for an `MlflowClient`: the same methods, each through `Tracking.ask`."""

    def __init__(self, tracking: Tracking) -> None:
        self._tracking = tracking

    def log_artifacts(self, run_id: str, local_dir: str, artifact_path: str | None = None) -> None:
        """As MLflow's, but each file for itself: of many, one may fail."""
        if self._tracking.server is None:
            self._tracking.ask(
                "an upload", partial(self._tracking.bare.log_artifacts, run_id, local_dir, artifact_path)
            )
            return
        root = Path(local_dir)
        for file in sorted(path for path in root.rglob("*") if path.is_file()):
            folder = posixpath.join(artifact_path or "", file.parent.relative_to(root).as_posix()).removesuffix("/.")
            self.log_artifact(run_id, str(file), None if folder in ("", ".") else folder)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._tracking.bare, name)
        what = TRANSFERS.get(name, name)
        return lambda *arguments, **options: self._tracking.ask(what, partial(method, *arguments, **options))


def _is_an_answer(error: Exception) -> bool:
    from mlflow.exceptions import MlflowException

    return isinstance(error, MlflowException) and redact(str(error)) == str(error)


def _reach(uri: str) -> None:
    """Raise `InputError` where no MLflow answers: its own client would try for minutes before it says so."""
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    where, way_out = f"at {without_password(uri)}", "start it, or unset the variable"
    ask = partial(
        http_request, get_default_host_creds(uri), "/api/2.0/mlflow/experiments/search", "GET",
        params={"max_results": 1}, max_retries=0, timeout=REACH_SECONDS, raise_on_status=False,
    )  # fmt: skip
    try:
        response = next((one for one in (ask() for _ in range(TRIES - 1)) if one.status_code < 500), None) or ask()
    except Exception as error:  # MLflow's one class for all that can happen to a connection
        trouble = trouble_of(error)
        reason = trouble.reason if trouble else (redact(str(error)) or type(error).__name__).splitlines()[0][:200]
        raise InputError(f"{VARIABLE}: no MLflow server answers {where} ({reason}); {way_out}") from None
    if response.status_code in (401, 403):
        said = " ".join(response.text.split())[:80]
        raise InputError(
            f"{VARIABLE}: the MLflow server {where} does not let us in ({response.status_code}: {said}); give "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    if response.status_code >= 500:
        raise InputError(
            f"{VARIABLE}: the MLflow server {where} answers {response.status_code}; its log says why; {way_out}"
        )
    try:
        known = response.status_code == 200 and isinstance(response.json(), dict)
    except ValueError:
        known = False
    if not known:
        raise InputError(
            f"{VARIABLE}: what answers {where} is no MLflow server (status {response.status_code}, "
            f"{response.headers.get('content-type', 'no content type')}); {way_out}"
        )
