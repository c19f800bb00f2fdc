"""One pass over the problems on several devices: their progress in one, and each model's answers out of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from tasks.core.results import Progress
from tasks.core.sections import EvaluationSpec
from tasks.engines.vllm_installation import vllm_version
from tasks.evaluation.evaluate import collect
from tasks.evaluation.questions import evaluated

UNPARSED_GOLDS = ".unparsed_golds"
"""After a benchmark's name: the entry of the summary with how many of its golds could not be read."""


def writer(
    partial: Path, problems: Path, spec: EvaluationSpec, too_long: int, unparsed_golds: Sequence[Mapping[str, int]]
) -> Callable[[Path, Progress], dict[str, Any]]:
    """What writes one model's answers to its artifact, and forgets the partial ones.

    ``too_long``: problems that do not fit; ``unparsed_golds``: {benchmark: count}
    of each device. `StageError`, and nothing is forgotten, where answers are missing.
    """

    def write(out: Path, _: Progress) -> dict[str, Any]:
        used = evaluated(problems)
        items = collect(partial, used, (used.height - too_long) * (1 + spec.samples))
        items.write_parquet(out / "items.parquet")
        shutil.rmtree(partial)
        first = items.filter(pl.col("sample") == 0)
        unread = {name: sum(one.get(name, 0) for one in unparsed_golds) for name in first["benchmark"].unique()}
        return {
            "n": first.height,
            "correct": int(first["correct"].sum()),
            "boxed_references": used["solution"].null_count(),
            "too_long": too_long,
            **vllm_version(spec.engine),
            **{f"{name}{UNPARSED_GOLDS}": count for name, count in unread.items()},
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
