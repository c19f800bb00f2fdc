"""One pass over the problems on several devices: their progress in one, and each model's answers out of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from tasks.contracts import Progress
from tasks.evaluation.evaluate import NOT_EVALUATED, collect


def writer(
    partial: Path, problems: Path, too_long: int, unparsed_golds: int
) -> Callable[[Path, Progress], dict[str, Any]]:
    """What writes one model's answers to its artifact, and forgets the partial ones."""

    def write(out: Path, _: Progress) -> dict[str, Any]:
        known = pl.read_parquet(problems)
        items = collect(partial, known)
        items.write_parquet(out / "items.parquet")
        shutil.rmtree(partial)
        first = items.filter(pl.col("sample") == 0)
        used = known.filter(~pl.col("split").is_in(NOT_EVALUATED))
        return {
            "n": first.height,
            "correct": int(first["correct"].sum()),
            "boxed_references": used["solution"].null_count(),
            "too_long": too_long,
            "unparsed_golds": unparsed_golds,
        }

    return write


class Shares:
    """One progress out of several devices'. It begins when the first device is had."""

    def __init__(self, progress: Progress, count: int) -> None:
        self._progress, self._done, self._total = progress, [0] * count, [0] * count

    def of(self, place: int) -> Progress:
        def progress(done: int, total: int, note: str) -> None:
            if total == 0:
                if not any(self._total):
                    self._progress(0, 0, "")
                return
            self._done[place], self._total[place] = done, total
            self._progress(sum(self._done), sum(self._total), note)

        return progress
