"""A training's steps in MLflow while it trains."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from pathlib import Path

import polars as pl

from tasks.core.digests import StageKey
from tasks.core.results import Progress
from tasks.storage.outbox import Row
from tasks.storage.patience import Aside
from tasks.storage.store import open_store
from tasks.training.log import FOUND, Diverged, divergence, read_log

LIVE_SECONDS = 2.0


class LiveMetrics:
    """Progress of a training that also sends the steps logged so far to MLflow, at most once in `LIVE_SECONDS`.

    It sends beside the training: a server that is slow or away holds up nothing. What it did not get is in `rest`.
    """

    def __init__(self, run_id: str, log: Path, progress: Progress) -> None:
        self.run_id, self.log, self.progress = run_id, log, progress
        self.rows: list[Row] = []
        self.sent = 0
        self.last = time.monotonic()
        self._aside = Aside()

    def __call__(self, done: int, total: int, note: str = "") -> None:
        self.progress(done, total, note)
        if time.monotonic() - self.last > LIVE_SECONDS:
            self.last = time.monotonic()
            self._take(read_log(self.log))
            self._aside.start(self._send)

    def rest(self, frame: Path) -> list[Row]:
        """What MLflow is not known to have of a finished log."""
        rows = pl.read_parquet(frame).select("metric", "value", "step").iter_rows()
        return self._unsent([(str(metric), float(value), int(step)) for metric, value, step in rows])

    def _unsent(self, rows: list[tuple[str, float, int]]) -> list[Row]:
        self._aside.wait(LIVE_SECONDS)
        self._take(rows)
        return _finite(self.rows[self.sent :])

    def _take(self, rows: list[tuple[str, float, int]]) -> None:
        """Note new rows with their time, so that those that are sent twice are there once."""
        now = int(time.time() * 1000)
        self.rows += [(*row, now) for row in rows[len(self.rows) :]]

    def _send(self) -> None:
        count = len(self.rows)
        with suppress(Exception):  # a server that is away: they go with the next, or with the output
            open_store().log_metrics(self.run_id, _finite(self.rows[self.sent : count]), wait=False)
            self.sent = count

    def refuse_divergence(self, error: Exception) -> None:
        """Raise `Diverged` where that is what ended the training; its run then says so beside the losses."""
        if not divergence(str(error)):
            return
        with suppress(Exception):  # the divergence itself is what counts
            open_store().log_metrics(self.run_id, self._unsent(read_log(self.log)))
            open_store().client.set_tag(self.run_id, "outcome", "diverged")
        raise Diverged(str(error)) from error

    def refuse_known(self, key: StageKey) -> None:
        """Raise `Diverged` where a training of this key, whose lock the caller holds, did so before.

        Equal settings on equal rollouts give equal numbers, so training it again would only cost the time. Deleting the
        MLflow run that is named forgets it.
        """
        store = open_store()
        query = f"tags.`cache.key` = '{key.digest}' and tags.outcome = 'diverged'"
        for run in store.client.search_runs(list(store.experiments.values()), query):
            tags = run.data.tags
            if run.info.status == "FAILED" and "cache.source_run" not in tags:
                store.client.set_tag(self.run_id, "outcome", "diverged")
                store.client.set_tag(self.run_id, "cache.source_run", run.info.run_id)
                raise Diverged(f"{divergence(tags.get('error', ''))} ({FOUND} {run.info.run_id}, not trained again)")


def _finite(rows: list[Row]) -> list[Row]:
    """MLflow would show an infinite loss as 1.8e308; the run's outcome says that it was one."""
    return [row for row in rows if math.isfinite(row[1])]
