"""A training's steps in MLflow while it trains."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import polars as pl

from tasks.contracts import Progress
from tasks.store import open_store
from tasks.training.log import read_log

LIVE_SECONDS = 2.0


class LiveMetrics:
    """Progress of a training that also sends the steps logged so far to MLflow, at most once in `LIVE_SECONDS`."""

    def __init__(self, run_id: str, log: Path, progress: Progress) -> None:
        self.run_id, self.log, self.progress = run_id, log, progress
        self.sent = 0
        self.last = time.monotonic()

    def __call__(self, done: int, total: int, note: str = "") -> None:
        self.progress(done, total, note)
        if time.monotonic() - self.last > LIVE_SECONDS:
            self.last = time.monotonic()
            with suppress(
                Exception
            ):  # a server that is away for a moment must not cost a training; finish() catches up
                self._send(read_log(self.log))

    def finish(self, frame: Path) -> None:
        """Send the rest, from the finished log."""
        rows = pl.read_parquet(frame).select("metric", "value", "step").iter_rows()
        self._send([(str(metric), float(value), int(step)) for metric, value, step in rows])

    def failed(self, outcome: str) -> None:
        """Send what was logged up to the end, and say on the run how it ended."""
        with suppress(Exception):  # the failure itself is what counts
            self._send(read_log(self.log))
            open_store().client.set_tag(self.run_id, "outcome", outcome)

    def _send(self, rows: list[tuple[str, float, int]]) -> None:
        open_store().log_metrics(self.run_id, rows[self.sent :])
        self.sent = max(self.sent, len(rows))
