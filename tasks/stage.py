"""The body that every ``task.py`` shares: look up, else compute, record, and tell Prefect what happened.

With the ``task.py`` files this is all of ``tasks`` that knows Prefect.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.states import Completed, State
from prefect.tasks import Task

from tasks.core import home
from tasks.core.clock import now
from tasks.core.digests import StageKey
from tasks.core.errors import InputError, StageError
from tasks.core.events import Event, at_work, emit, highest
from tasks.core.results import Progress, StageResult
from tasks.storage import outbox
from tasks.storage.patience import Aside
from tasks.storage.store import CACHE, Entry, open_store
from tasks.workers.devices import WorkerDied

Compute = Callable[[Path, Progress], Mapping[str, Any]]

LAST_SECONDS = 2.0
"""What a progress artifact may take to be told that all is done."""


def can_heal(task: Task[..., Any], run: Any, state: State[Any]) -> bool:
    """Prefect's retry condition: only a worker that was killed from outside is worth another try."""
    try:
        state.result()
    except WorkerDied:
        emit(Event("again", run.name, note="its worker died; a second try"))
        return True
    except Exception:
        return False
    return False


def log_file(key: StageKey) -> Path:
    """Where the worker processes of one stage write what they print."""
    return home.subfolder("logs") / f"{key.stage}-{key.digest[:12]}.log"


def run_stage(
    key: StageKey,
    name: str,
    compute: Compute,
    *,
    parent: str | None = None,
    experiment: str = CACHE,
    tags: Mapping[str, str] | None = None,
    params: Mapping[str, Any] | None = None,
    on_run: Callable[[str], None] | None = None,
    rows: Callable[[Path], Sequence[outbox.Row]] = lambda _: (),
) -> StageResult:
    """Return the stage's output from the cache or compute it; `state_of` then shows in Prefect which it was.

    ``compute(staging, progress)`` writes files to ``staging`` and returns a summary of numbers. ``on_run(run_id)`` is
    called when a new MLflow run was opened for the computation, e.g. to stream metrics into it; ``rows(staging)`` are
    those that it lacks in the end.
    """
    logger = get_run_logger()
    store = open_store()
    began, clock = now(), time.perf_counter()
    with at_work(name) as damage, store.locked(key):
        entry = _known(key, name)
        if entry is not None:
            emit(Event("hit", name, seconds=entry.seconds))
            logger.info("%s: found in MLflow run %s", name, entry.ref.run_id)
            return _result(key, name, entry, began, time.perf_counter() - clock, damage, hit=True)
        logger.info("%s: computing (key %s, output of its worker in %s)", name, key.digest[:12], log_file(key))
        try:
            run_id = store.open_run(name, key=key, parent=parent, experiment=experiment, tags=tags, params=params)
            if on_run is not None:
                on_run(run_id)
            progress = _PrefectProgress(name)  # its waiting begins where the stage's own time does
            entry = store.produce(
                key,
                run_id,
                lambda staging: _with_peak(compute(staging, progress)),
                waited=lambda: progress.waited,
                rows=rows,
            )
        except Exception as error:
            _complain(name, error)
            raise
        progress.finish()
    emit(Event("done", name, seconds=entry.seconds))
    logger.info("%s: done in %.1f s, MLflow run %s", name, entry.seconds, run_id)
    for what in damage:
        logger.warning("damaged: %s", what)
    return _result(key, name, entry, began, time.perf_counter() - clock, damage, hit=False)


@dataclass(frozen=True)
class Part:
    """One of several stages that are computed in one go: its key, its name, and its own summary when it is done."""

    key: StageKey
    name: str


def run_stages(
    parts: Sequence[Part],
    name: str,
    compute: Callable[[Sequence[int], Progress], Mapping[int, Compute]],
) -> list[StageResult]:
    """As `run_stage` for stages that share their work: only those that the cache lacks are computed, together.

    ``compute(missing, progress)`` does the work for the parts with these places and returns, for each, a function that
    writes its files to a staging folder and returns its summary. The seconds are divided evenly among them. Each has
    its MLflow run from the beginning; a pass that fails leaves those that it did not finish FAILED, with the reason.
    """
    logger = get_run_logger()
    store = open_store()
    began, clock = now(), time.perf_counter()
    places = {part.key.digest: place for place, part in reversed(list(enumerate(parts)))}
    with at_work(name) as damage, ExitStack() as locks:
        for _, place in sorted(places.items()):  # one order for everybody: no deadlock
            locks.enter_context(store.locked(parts[place].key))
        found = {digest: _known(parts[place].key, parts[place].name) for digest, place in places.items()}
        missing = sorted(places[digest] for digest, entry in found.items() if entry is None)
        for part in parts:
            if (entry := found[part.key.digest]) is not None:
                emit(Event("hit", part.name, seconds=entry.seconds))
                logger.info("%s: found in MLflow run %s", part.name, entry.ref.run_id)
        if missing:
            logger.info("%s: computing %s", name, ", ".join(parts[place].name for place in missing))
            made = _compute_parts(parts, missing, name, compute)
            found |= {parts[place].key.digest: entry for place, entry in made.items()}
    for what in damage:
        logger.warning("damaged: %s", what)
    total = time.perf_counter() - clock
    return [
        _result(part.key, part.name, entry, began, total, [] if place else damage, hit=place not in missing)
        for place, part in enumerate(parts)
        if (entry := found[part.key.digest]) is not None
    ]


def _compute_parts(
    parts: Sequence[Part],
    missing: Sequence[int],
    name: str,
    compute: Callable[[Sequence[int], Progress], Mapping[int, Compute]],
) -> dict[int, Entry]:
    """The entries of the missing parts, whose locks the caller holds."""
    store = open_store()
    runs: dict[int, str] = {}
    entries: dict[int, Entry] = {}
    try:
        for place in missing:
            runs[place] = store.open_run(parts[place].name, key=parts[place].key)
        progress, clock = _PrefectProgress(name), time.perf_counter()
        writers = compute(missing, progress)
        share = max(0.0, time.perf_counter() - clock - progress.waited) / len(missing)
        for place in missing:
            entries[place] = store.produce(
                parts[place].key,
                runs[place],
                lambda staging, write=writers[place]: _with_peak(write(staging, progress)),  # type: ignore[misc]
                waited=lambda: -share,
            )
    except BaseException as error:
        for place in runs.keys() - entries.keys():
            store.fail_run(runs[place], error)
        if isinstance(error, Exception):
            _complain(name, error)
        raise
    progress.finish()
    emit(Event("done", name, seconds=time.perf_counter() - clock - progress.waited))
    return entries


def _with_peak(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    """A stage's summary with the most memory that one of its worker processes held, where it had one."""
    return {**summary, "peak_bytes": peak} if (peak := highest()) else summary


def _known(key: StageKey, name: str) -> Entry | None:
    """What was computed before: found in the record, or here, on its way there."""
    store = open_store()
    try:
        entry = store.find(key)
        if entry is None:
            return store.recover(key)
        outbox.discard(key)  # of somebody who was killed when it had just arrived
        return entry
    except Exception as error:
        _complain(name, error)
        raise


def _complain(name: str, error: Exception) -> None:
    """Tell the terminal that a stage failed; a `StageError` is raised again under the stage's name."""
    known = isinstance(error, InputError | StageError)
    emit(Event("failed", name, note=str(error) if known else f"{type(error).__name__}: {error}"))
    if isinstance(error, StageError):
        raise type(error)(f"{name}: {error}") from error


def after(first: StageResult, second: StageResult) -> StageResult:
    """The second of two stages that one task does, with the cost of both."""
    return replace(
        second,
        seconds=first.seconds + second.seconds,
        hit=first.hit and second.hit,
        cached_seconds=first.cached_seconds + second.cached_seconds,
        total_seconds=first.total_seconds + second.total_seconds,
        started=first.started,
        summary={**first.summary, **second.summary},
        damage=first.damage + second.damage,
    )


def states_of(results: list[StageResult]) -> list[StageResult] | State[list[StageResult]]:
    """`state_of` for several results: a ``CacheHit`` where all of them are."""
    if not all(result.hit for result in results):
        return results
    message = f"from MLflow runs {', '.join(result.ref.run_id for result in results)}"
    return Completed(name="CacheHit", message=message, data=results)


def state_of(result: StageResult) -> StageResult | State[StageResult]:
    """What a task returns to Prefect: a hit is a ``CacheHit`` state that names the run it came from."""
    if not result.hit:
        return result
    message = f"from MLflow run {result.ref.run_id}, computed there in {result.cached_seconds:.1f} s"
    return Completed(name="CacheHit", message=message, data=result)


def _result(
    key: StageKey, name: str, entry: Entry, began: float, seconds: float, damage: Sequence[str], *, hit: bool
) -> StageResult:
    return StageResult(
        stage=key.stage,
        name=name,
        ref=entry.ref,
        seconds=0.0 if hit else entry.seconds,
        hit=hit,
        cached_seconds=entry.seconds,
        started=began,
        total_seconds=seconds,
        summary={k: v for k, v in entry.summary.items() if not isinstance(v, dict | list)},
        damage=tuple(damage),
    )


class _PrefectProgress:
    """Tells the terminal at every call and Prefect's progress artifact at most once in two seconds."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.artifact: Any = None
        self.told = self.made = time.monotonic()
        self.waited = 0.0
        self._aside = Aside()  # a server that is away must not hold up those whose progress this is

    def __call__(self, done: int, total: int, note: str = "") -> None:
        if total == 0:
            self.waited = time.monotonic() - self.made
            emit(Event("start", self.name))
            return
        emit(Event("progress", self.name, done=done, total=total, note=note))
        if time.monotonic() - self.told < 2:
            return
        self.told = time.monotonic()
        self._aside.start(lambda: self._tell(min(100.0, 100.0 * done / total)))

    def _tell(self, share: float) -> None:
        try:
            if self.artifact is None:
                self.artifact = create_progress_artifact(share, description=self.name)
            else:
                update_progress_artifact(self.artifact, share)
        except Exception:  # a progress bar is worth no training: outside a run, or with a server that is away
            return

    def finish(self) -> None:
        """Leave a started progress artifact at 100 %."""
        self._aside.wait(LAST_SECONDS)
        if self.artifact is not None:
            self._aside.start(lambda: self._tell(100.0))
            self._aside.wait(LAST_SECONDS)
