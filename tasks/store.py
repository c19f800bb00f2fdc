"""The record and the cache: the only module that knows MLflow.

A cache entry is one MLflow run whose artifact folder holds a stage's output and a manifest (size and sha256 of every
file). Its key is the sha256 of (stage, version, digests of the inputs, the settings that matter). An entry is a hit
only if the run is FINISHED, tagged complete, and every file still has the manifest's digest; so a killed run is never a
hit and damage is found, named and recomputed. Output is computed in a staging folder and uploaded when whole.

Two experiments: ``colinear`` holds what people browse (a parent run per study, a child per method); ``colinear.cache``
the entries of all other stages.
"""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from tasks import home
from tasks.contracts import EXTERNAL, ArtifactRef, InputError, StageError
from tasks.digests import MANIFEST, Damaged, StageKey, build_manifest, manifest_digest, verify_entry

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

STUDIES = "colinear"
CACHE = "colinear.cache"
FOLDER = "output"  # within a run's artifacts
KINDS = ("study", "comparison", "sweep")  # of the parent runs that hold a lock while they live
REACH_SECONDS = 20.0
PAGE = 200  # runs asked for at a time


@dataclass(frozen=True)
class Entry:
    """A verified cache entry."""

    ref: ArtifactRef
    seconds: float
    summary: dict[str, Any]


class Store:
    """One MLflow tracking server or database, used as record and cache. Safe to use from several threads."""

    def __init__(self, uri: str | None = None) -> None:
        """``uri``: an MLflow tracking URI; default ``$MLFLOW_TRACKING_URI``, else a database under `home.home`."""
        import os

        self.root = home.home()
        self.uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.root / 'mlflow.db'}"
        self._local_files = self.uri.startswith("sqlite:///")
        self._verified: dict[str, Path] = {}
        self._alive: dict[str, FileLock] = {}
        with FileLock(self.root / "init.lock"):  # two processes creating a fresh database at once race
            self.client = self._connect()
            self.experiments = {name: self._experiment(name) for name in (STUDIES, CACHE)}

    def _connect(self) -> MlflowClient:
        home.quiet_environment()
        if self.uri.startswith(("http://", "https://")):
            _reach(self.uri)
        import logging

        from mlflow import MlflowClient

        for name in ("mlflow", "mlflow.store.db.utils", "alembic"):  # creating tables is nothing to tell a user
            logging.getLogger(name).setLevel(logging.WARNING)
        return MlflowClient(tracking_uri=self.uri)

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        location = (self.root / "artifacts" / name).as_uri() if self._local_files else None
        try:
            return str(self.client.create_experiment(name, artifact_location=location))
        except MlflowException:
            found = self.client.get_experiment_by_name(name)
            if found is None:
                raise
            return str(found.experiment_id)  # on a shared server somebody else was first

    # --- cache ------------------------------------------------------------------------------------------------------

    @contextmanager
    def locked(self, key: StageKey) -> Iterator[None]:
        """Hold the key's lock: of two studies that need one stage, the second waits and finds a hit."""
        with FileLock(home.subfolder("locks") / f"{key.digest}.lock", thread_local=False):
            yield

    def find(self, key: StageKey) -> Entry | None:
        """The newest sound entry for ``key``, or None. Damaged entries are invalidated, with the reason in a tag."""
        for run in self._runs(f"tags.`cache.key` = '{key.digest}' and tags.`cache.complete` = '1'"):
            if run.info.status != "FINISHED":
                continue
            try:
                return self._entry(run)
            except Damaged as damage:
                if self._elsewhere(run):
                    continue
                self.client.set_tag(run.info.run_id, "cache.complete", "0")
                self.client.set_tag(run.info.run_id, "cache.damaged", str(damage)[:500])
        return None

    def _entry(self, run: Run) -> Entry:
        tags = run.data.tags
        ref = ArtifactRef(
            uri=f"{run.info.artifact_uri}/{FOLDER}",
            sha256=tags["cache.manifest"],
            kind=tags["stage"],
            run_id=run.info.run_id,
        )
        folder = self.local(ref)
        summary = folder / "summary.json"
        return Entry(
            ref=ref,
            seconds=float(tags.get("stage.seconds", 0.0)),
            summary=json.loads(summary.read_text()) if summary.is_file() else {},
        )

    def _runs(self, query: str) -> list[Run]:
        """All runs that match, the newest first."""
        experiments, order = list(self.experiments.values()), ["attributes.start_time DESC"]
        page = self.client.search_runs(experiments, query, order_by=order, max_results=PAGE)
        runs = list(page)
        while page.token:
            page = self.client.search_runs(experiments, query, order_by=order, max_results=PAGE, page_token=page.token)
            runs += page
        return runs

    def produce(
        self,
        key: StageKey,
        run_id: str,
        compute: Callable[[Path], Mapping[str, Any]],
        *,
        waited: Callable[[], float] = lambda: 0.0,
    ) -> Entry:
        """Compute a stage in a staging folder and make it ``run_id``'s artifact, whole or not at all.

        ``compute(staging)`` writes its files there and returns a small summary of numbers. The caller holds the key's
        lock and has opened ``run_id`` with `open_run`. ``waited()`` seconds (for a device) do not count as work.
        """
        staging = home.subfolder("staging") / f"{key.stage}-{key.digest[:16]}"
        shutil.rmtree(staging, ignore_errors=True)  # of a run of this key that was killed
        staging.mkdir()
        began = time.perf_counter()
        try:
            summary = dict(compute(staging))
            seconds = max(0.0, time.perf_counter() - began - waited())
            (staging / "summary.json").write_text(json.dumps(summary, sort_keys=True, indent=1) + "\n")
            manifest = build_manifest(staging)
            self.client.log_artifacts(run_id, str(staging), FOLDER)
            self._log_text(run_id, json.dumps(manifest, sort_keys=True, indent=1), MANIFEST)
            self.client.set_tag(run_id, "stage.seconds", f"{seconds:.3f}")
            self.client.set_tag(run_id, "cache.manifest", manifest_digest(manifest))
            self.client.set_tag(run_id, "cache.complete", "1")
            self.client.set_terminated(run_id, "FINISHED")
        except BaseException as error:
            with suppress(Exception):  # the store itself may be what failed: its message counts
                self.client.set_tag(run_id, "error", f"{type(error).__name__}: {error}"[:2000])
                self.client.set_terminated(run_id, "FAILED")
            raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return self._entry(self.client.get_run(run_id))

    def _log_text(self, run_id: str, text: str, name: str) -> None:
        self.client.log_text(run_id, text, name)

    def local(self, ref: ArtifactRef) -> Path:
        """The artifact as a local folder, every file checked against the manifest once per process.

        Local artifact stores are read in place; others are downloaded once into the state folder. Raises `Damaged`.
        """
        if ref.kind.startswith(EXTERNAL):
            return Path(ref.uri)
        if ref.sha256 in self._verified:
            return self._verified[ref.sha256]
        parsed = urllib.parse.urlparse(ref.uri)
        if parsed.scheme in ("", "file"):
            folder = Path(urllib.request.url2pathname(parsed.path))
            verify_entry(folder, ref.sha256)
        else:
            folder = self._downloaded(ref)
        self._verified[ref.sha256] = folder
        return folder

    def _downloaded(self, ref: ArtifactRef) -> Path:
        """The verified copy of a remote artifact. A copy that was damaged here is fetched again."""
        downloads = home.subfolder("downloads")
        target = downloads / ref.sha256
        with FileLock(downloads / f"{ref.sha256}.lock", thread_local=False):
            if target.is_dir():
                try:
                    verify_entry(target / FOLDER, ref.sha256)
                    return target / FOLDER
                except Damaged:
                    shutil.rmtree(target)
            partial = Path(tempfile.mkdtemp(prefix="partial-", dir=downloads))
            try:
                self._fetch(ref, partial)
                verify_entry(partial / FOLDER, ref.sha256)
                partial.rename(target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        return target / FOLDER

    def _fetch(self, ref: ArtifactRef, folder: Path) -> None:
        from mlflow.artifacts import download_artifacts

        present = {item.path for item in self.client.list_artifacts(ref.run_id)}
        for name in (FOLDER, MANIFEST):
            if name not in present:
                raise Damaged(f"{name} is missing")
            download_artifacts(run_id=ref.run_id, artifact_path=name, dst_path=str(folder), tracking_uri=self.uri)

    # --- runs and artifacts that a person names ---------------------------------------------------------------------

    def run(self, run_id: str) -> Run:
        """A run by its id. Raises `InputError` where there is none."""
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_run(run_id)
        except MlflowException as error:
            raise InputError(f"MLflow run {run_id}: not in {self.uri}: {_first_line(error)}") from error

    def names(self, run_id: str, path: str = "") -> list[str]:
        """The names of the files and folders in one folder of a run's artifacts; none where it is no folder."""
        return [item.path.rpartition("/")[2] for item in self.client.list_artifacts(run_id, path or None)]

    def download(self, uri: str, out: Path) -> Path:
        """The files of an artifact URI in the new folder ``out``. Raises `InputError` where MLflow cannot give them."""
        from mlflow.artifacts import download_artifacts

        try:
            return Path(download_artifacts(self._location(uri), dst_path=str(out), tracking_uri=self.uri))
        except Exception as error:  # MLflow's own, and those of each kind of artifact store
            raise InputError(f"{uri}: not to be had from MLflow at {self.uri}: {_first_line(error)}") from error

    def _location(self, uri: str) -> str:
        """Where a ``models:/`` URI points to; MLflow's own download would ask the process's global registry instead."""
        if not uri.startswith("models:/"):
            return uri
        from mlflow.store.artifact.utils.models import get_model_name_and_version

        match get_model_name_and_version(self.client, uri):
            case (name, version):
                return str(self.client.get_model_version_download_uri(name, version))
            case (model_id,):
                return str(self.client.get_logged_model(model_id).artifact_location)
        raise ValueError("neither a registered nor a logged model")

    # --- runs that people browse ------------------------------------------------------------------------------------

    def open_run(
        self,
        name: str,
        *,
        key: StageKey | None = None,
        parent: str | None = None,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        experiment: str = CACHE,
    ) -> str:
        """Start an MLflow run. With ``key`` it can become a cache entry; forgotten runs of that key are closed."""
        all_tags = {**self._place(), **(tags or {})}
        if key is not None:
            all_tags |= {"cache.key": key.digest, "stage": key.stage, "cache.complete": "0"}
            self._close_forgotten(key)
        if parent is not None:
            all_tags["mlflow.parentRunId"] = parent
        run = self.client.create_run(self.experiments[experiment], run_name=name, tags=all_tags)
        if params:
            self.log_params(run.info.run_id, params)
        return str(run.info.run_id)

    def _place(self) -> dict[str, str]:
        """Tags that say whose locks guard a run: they are files of this host's state folder."""
        return {"host": socket.gethostname(), "home": str(self.root)}

    def _elsewhere(self, run: Run) -> bool:
        """Whether the run's files are on another machine's disk: a miss for us, and no damage."""
        on_disk = urllib.parse.urlparse(run.info.artifact_uri).scheme in ("", "file")
        return on_disk and run.data.tags.get("host") != socket.gethostname()

    def _ours(self, query: str) -> list[Run]:
        """Runs that say RUNNING and are guarded by locks that this process can try."""
        runs = self._runs(f"{query} and attributes.status = 'RUNNING'")
        return [run for run in runs if self._place().items() <= run.data.tags.items()]

    def _close_forgotten(self, key: StageKey) -> None:
        """A run of this key that still says RUNNING here was killed: we hold the key's lock."""
        for run in self._ours(f"tags.`cache.key` = '{key.digest}'"):
            self.client.set_terminated(run.info.run_id, "KILLED")

    def open_study(self, name: str, tags: Mapping[str, str], params: Mapping[str, Any]) -> str:
        """Start a study's parent run; those of this state folder that were killed and still say RUNNING are closed.

        A study holds a lock of its own while it lives, so a RUNNING study whose lock is free is dead. One study opens
        at a time: between its run's creation and its lock it would look dead.
        """
        folder = home.subfolder("locks")
        with FileLock(folder / "studies.lock", thread_local=False):
            for run in [run for kind in KINDS for run in self._ours(f"tags.kind = '{kind}'")]:
                lock = FileLock(folder / f"study-{run.info.run_id}.lock", thread_local=False)
                with suppress(Timeout), lock.acquire(timeout=0):
                    self.client.set_terminated(run.info.run_id, "KILLED")
            run_id = self.open_run(name, tags={"kind": "study", **tags}, params=params, experiment=STUDIES)
            self._alive[run_id] = FileLock(folder / f"study-{run_id}.lock", thread_local=False)
            self._alive[run_id].acquire()
        return run_id

    def end_study(self, run_id: str, status: str) -> None:
        """Close a study's parent run and give back its lock."""
        self.end_run(run_id, status)
        if run_id in self._alive:
            self._alive.pop(run_id).release()

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Log parameters, as text."""
        from mlflow.entities import Param

        listed = [Param(name, str(value)[:6000]) for name, value in params.items()]
        for start in range(0, len(listed), 100):  # MLflow's limit for one batch
            self.client.log_batch(run_id, params=listed[start : start + 100])

    def log_metrics(self, run_id: str, rows: list[tuple[str, float, int]]) -> None:
        """Log ``(name, value, step)`` rows, in batches of MLflow's limit of 1,000."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, float(value), now, step) for name, value, step in rows]
        for start in range(0, len(metrics), 1000):
            self.client.log_batch(run_id, metrics=metrics[start : start + 1000])

    def log_files(self, run_id: str, files: Iterable[Path], root: Path | None = None) -> None:
        """Upload finished files (a study's report and tables) as the run's artifacts: side by side, or in the folders
        that they have below ``root``."""
        for file in files:
            folder = file.parent.relative_to(root).as_posix() if root else "."
            self.client.log_artifact(run_id, str(file), None if folder == "." else folder)

    def end_run(self, run_id: str, status: str = "FINISHED") -> None:
        """Close a run: FINISHED, FAILED or KILLED."""
        self.client.set_terminated(run_id, status)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _reach(uri: str) -> None:
    """Raise `OSError` where no server answers: MLflow's own client tries again for minutes before it says so."""
    try:
        urllib.request.urlopen(uri, timeout=REACH_SECONDS).close()
    except urllib.error.HTTPError:  # it answers; whether it lets us in is MLflow's to find out
        return


@lru_cache(maxsize=4)
def _store(uri: str | None, root: str) -> Store:
    return Store(uri)


def open_store() -> Store:
    """The store of the current environment, connected once per process."""
    import os

    try:
        return _store(os.environ.get("MLFLOW_TRACKING_URI"), str(home.home()))
    except Exception as error:
        uri = os.environ.get("MLFLOW_TRACKING_URI", "the local database")
        raise StageError(f"MLflow: cannot open {uri}: {error}") from error
