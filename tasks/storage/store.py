"""The record and the cache: with `tasks.storage.tracking` and `tasks.storage.mlflow_pages` all that knows MLflow.

A cache entry is one MLflow run whose artifact folder holds a stage's output and a manifest (size and sha256 of every
file). Its key is the sha256 of (stage, version, digests of the inputs, the settings that matter). An entry is a hit
only if the run is FINISHED, tagged complete, and every file still has the manifest's digest; so a killed run is never a
hit and damage is found, named and recomputed. Output is sent when whole, and kept here until it has arrived.

Two experiments: ``colinear`` holds what people browse (a parent run per study, a child per method); ``colinear.cache``
the entries of all other stages.
"""

from __future__ import annotations

import json
import os
import socket
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from tasks.core import home
from tasks.core.digests import MANIFEST, Damaged, StageKey, manifest_digest, seal
from tasks.core.errors import InputError, StageError
from tasks.core.events import damaged
from tasks.core.results import EXTERNAL, ArtifactRef
from tasks.core.secrets import redact
from tasks.core.visible import parameter_names
from tasks.storage import mlflow_pages, outbox
from tasks.storage.copies import FOLDER, Copies
from tasks.storage.making import making
from tasks.storage.state import check_mlflow, deleted_experiment, mlflow_database, tracking_uri
from tasks.storage.tracking import Tracking

if TYPE_CHECKING:
    from mlflow.entities import Run

STUDIES = "colinear"
CACHE = "colinear.cache"
SEAL = "cache.seal"  # tag: `tasks.core.digests.seal` of the two tags that make a run an entry
KINDS = ("study", "comparison", "sweep")  # of the parent runs that hold a lock while they live
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
        self.root = home.home()
        self.uri = uri or tracking_uri()
        self._local_files = self.uri.startswith("sqlite:///")
        self._copies = Copies(lambda ref, folder: self._fetch(ref, folder))
        self._alive: dict[str, FileLock] = {}
        fresh = making(mlflow_database(self.uri))
        with FileLock(self.root / "init.lock"), fresh as made:  # two processes creating a fresh database at once race
            check_mlflow(self.uri)
            self._tracking = Tracking(self.uri)
            self.client = self._tracking.client
            self.experiments = {name: self._experiment(name) for name in (STUDIES, CACHE)}
            mlflow_pages.prepare(self.client, self.experiments[STUDIES], self.experiments[CACHE])
            made()

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == "deleted":
            raise InputError(f"MLflow: {deleted_experiment(name, found.experiment_id, self.uri)}")
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
                damaged(f"{damage} (MLflow run {run.info.run_id}); not used", run.info.run_name)
        return None

    def _entry(self, run: Run) -> Entry:
        tags = run.data.tags
        if lost := {"stage", "cache.manifest"} - tags.keys():
            raise Damaged(f"its record lacks {', '.join(sorted(lost))}")
        sealed = seal(tags["cache.key"], tags["cache.manifest"])
        if tags.get(SEAL, sealed) != sealed:  # entries of earlier versions have none
            raise Damaged("the key and the digest in its record do not belong together")
        ref = ArtifactRef(
            uri=f"{run.info.artifact_uri}/{FOLDER}",
            sha256=tags["cache.manifest"],
            kind=tags["stage"],
            run_id=run.info.run_id,
        )
        folder = self._copies.folder(ref)
        summary = folder / "summary.json"
        return Entry(
            ref=ref,
            seconds=_number(tags.get("stage.seconds")),
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
        rows: Callable[[Path], Sequence[outbox.Row]] = lambda _: (),
    ) -> Entry:
        """Compute a stage and make it ``run_id``'s artifact, whole or not at all.

        ``compute(staging)`` writes its files there and returns a small summary of numbers, ``rows(staging)`` metrics
        that MLflow lacks. The caller holds the key's lock and has opened ``run_id`` with `open_run`. ``waited()``
        seconds (for a device) do not count as work. What was computed is in the outbox until MLflow has it.
        """
        staging = outbox.begin(key)
        began = time.perf_counter()
        try:
            summary = dict(compute(staging))
            seconds = max(0.0, time.perf_counter() - began - waited())
            (staging / "summary.json").write_text(json.dumps(summary, sort_keys=True, indent=1) + "\n")
            finished = outbox.finish(key, run_id, seconds, rows(staging))
        except BaseException as error:
            outbox.abandon(key)
            self.fail_run(run_id, error)
            raise
        return self._deliver(key, run_id, finished)

    def recover(self, key: StageKey) -> Entry | None:
        """Send what an earlier process finished and could not send, if there is anything. The caller holds the lock."""
        finished = outbox.find(key)
        if finished is None:
            return None
        known = self._tracking.is_open_to(finished.run_id, "cache.key", key.digest)
        run_id = finished.run_id if known else self.open_run(key.stage, key=key)
        return self._deliver(key, run_id, finished)

    def _deliver(self, key: StageKey, run_id: str, finished: outbox.Finished) -> Entry:
        try:
            self.log_metrics(run_id, finished.rows)
            self.client.log_artifacts(run_id, str(outbox.folder(key) / outbox.OUTPUT), FOLDER)
            self.client.log_text(run_id, json.dumps(finished.manifest, sort_keys=True, indent=1), MANIFEST)
            digest = manifest_digest(finished.manifest)
            self.client.set_tag(run_id, "stage.seconds", f"{finished.seconds:.3f}")
            self.client.set_tag(run_id, "cache.manifest", digest)
            self.client.set_tag(run_id, SEAL, seal(key.digest, digest))
            self.client.set_tag(run_id, "cache.complete", "1")
            self.client.set_terminated(run_id, "FINISHED")
        except BaseException as error:
            self.fail_run(run_id, error)
            if isinstance(error, StageError):
                raise StageError(f"{error}; what was computed is kept, the same command delivers it") from None
            raise
        entry = self._entry(self.client.get_run(run_id))
        outbox.discard(key)
        return entry

    def fail_run(self, run_id: str, error: BaseException) -> None:
        """Close a run as FAILED with its reason, where MLflow can be told at once."""
        if self._tracking.server is not None and self._tracking.server.away:
            return  # the run says RUNNING until its key, or its study, is begun again
        with suppress(Exception):  # the store itself may be what failed: the error counts
            self._tracking.bare.set_tag(run_id, "error", redact(f"{type(error).__name__}: {error}")[:2000])
            self._tracking.bare.set_terminated(run_id, "FAILED")

    def local(self, ref: ArtifactRef) -> Path:
        """The artifact as a local folder, every file checked against the manifest once per process, and again where it
        was written to since.

        Local artifact stores are read in place; others are downloaded once into the state folder. Raises `Damaged`.
        """
        if ref.kind.startswith(EXTERNAL):
            return Path(ref.uri)
        try:
            return self._copies.folder(ref)
        except Damaged as damage:
            way_out = "run its study again, which makes it anew"
            raise Damaged(f"{ref.kind} of MLflow run {ref.run_id}: {damage}; {way_out}") from damage

    def _fetch(self, ref: ArtifactRef, folder: Path) -> None:
        from mlflow.artifacts import download_artifacts

        present = {item.path for item in self.client.list_artifacts(ref.run_id)}
        for name in (FOLDER, MANIFEST):
            if name not in present:
                raise Damaged(f"{name} is missing")
            # By its own URI: of a run's, MLflow says for whatever goes wrong that there is no such path.
            uri = f"{ref.uri.rpartition('/')[0]}/{name}"
            options = {"artifact_uri": uri, "dst_path": str(folder), "tracking_uri": self.uri}
            self._tracking.ask("a download", partial(download_artifacts, **options))

    # --- runs and artifacts that a person names ---------------------------------------------------------------------

    def run(self, run_id: str) -> Run:
        """A run by its id. Raises `InputError` where there is none."""
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_run(run_id)
        except MlflowException as error:
            raise InputError(f"MLflow run {run_id}: not in {self._tracking.where}: {_first_line(error)}") from error

    def names(self, run_id: str, path: str = "") -> list[str]:
        """The names of the files and folders in one folder of a run's artifacts; none where it is no folder."""
        return [item.path.rpartition("/")[2] for item in self.client.list_artifacts(run_id, path or None)]

    def download(self, uri: str, out: Path) -> Path:
        """The files of an artifact URI in the new folder ``out``. Raises `InputError` where MLflow cannot give them."""
        return self._tracking.download(uri, out)

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
        all_tags = {**self._place(), **mlflow_pages.origin(), **(tags or {})}
        if key is not None:
            all_tags |= {"cache.key": key.digest, "stage": key.stage, "cache.complete": "0"}
            self._close_forgotten(key)
        if parent is not None:
            all_tags["mlflow.parentRunId"] = parent
        run_id = self._tracking.create_run(self.experiments[experiment], name, all_tags)
        if params:
            self.log_params(run_id, params)
        return run_id

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

    def open_study(
        self,
        name: str,
        tags: Mapping[str, str],
        params: Mapping[str, Any],
        closed: Callable[[Mapping[str, str]], None] = lambda _: None,
    ) -> str:
        """Start a study's parent run; those of this state folder that were killed and still say RUNNING are closed.

        ``closed`` is called with the tags of each of these. A study holds a lock of its own while it lives, so a
        RUNNING study whose lock is free is dead. One study opens at a time: between its run's creation and its lock it
        would look dead.
        """
        folder = home.subfolder("locks")
        with FileLock(folder / "studies.lock", thread_local=False):
            for run in [run for kind in KINDS for run in self._ours(f"tags.kind = '{kind}'")]:
                lock = FileLock(folder / f"study-{run.info.run_id}.lock", thread_local=False)
                with suppress(Timeout), lock.acquire(timeout=0):
                    for child in self._ours(f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"):
                        if "cache.key" not in child.data.tags:  # those are closed with their stage's next try
                            self.client.set_terminated(child.info.run_id, "KILLED")
                    closed(run.data.tags)
                    self.client.set_terminated(run.info.run_id, "KILLED")
            run_id = self.open_run(name, tags={"kind": "study", **tags}, params=params, experiment=STUDIES)
            self._alive[run_id] = FileLock(folder / f"study-{run_id}.lock", thread_local=False)
            self._alive[run_id].acquire()
        return run_id

    def end_study(self, run_id: str, status: str) -> None:
        """Close a study's parent run and give back its lock."""
        try:
            self.end_run(run_id, status)
        finally:
            if run_id in self._alive:
                self._alive.pop(run_id).release()

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Log parameters, as text."""
        from mlflow.entities import Param

        listed = [Param(name, str(value)[:6000]) for name, value in parameter_names(params).items()]
        for start in range(0, len(listed), 100):  # MLflow's limit for one batch
            self.client.log_batch(run_id, params=listed[start : start + 100])

    def log_metrics(self, run_id: str, rows: Sequence[tuple[Any, ...]], *, wait: bool = True) -> None:
        """Log ``(name, value, step)`` rows, or `outbox.Row`, in batches of MLflow's limit of 1,000.

        Without ``wait`` a server that is away is an error at once.
        """
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, float(value), stamp[0] if stamp else now, step) for name, value, step, *stamp in rows]
        client = self.client if wait else self._tracking.bare
        for start in range(0, len(metrics), 1000):
            client.log_batch(run_id, metrics=metrics[start : start + 1000])

    def log_files(self, run_id: str, files: Iterable[Path], root: Path | None = None) -> None:
        """Upload finished files (a study's report and tables) as the run's artifacts: side by side, or in the folders
        that they have below ``root``."""
        for file in files:
            folder = file.parent.relative_to(root).as_posix() if root else "."
            self.client.log_artifact(run_id, str(file), None if folder == "." else folder)

    def end_run(self, run_id: str, status: str = "FINISHED") -> None:
        """Close a run: FINISHED, FAILED or KILLED."""
        self.client.set_terminated(run_id, status)


def _number(text: str | None) -> float:
    """Seconds in a tag; 0 where they cannot be read, for they decide nothing."""
    try:
        return float(text or 0.0)
    except ValueError:
        return 0.0


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


@lru_cache(maxsize=4)
def _store(uri: str | None, root: str) -> Store:
    return Store(uri)


def open_store() -> Store:
    """The store of the current environment, connected once per process."""
    try:
        return _store(os.environ.get("MLFLOW_TRACKING_URI"), str(home.home()))
    except (InputError, StageError):
        raise
    except Exception as error:
        uri = os.environ.get("MLFLOW_TRACKING_URI", "the local database")
        raise StageError(redact(f"MLflow: cannot open {uri}: {error}")) from error
