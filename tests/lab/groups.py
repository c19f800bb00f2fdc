"""Graded rollouts from a few rewards, for tests of selections and advantages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from tasks.core.frames import GRADED


def graded(*rows: tuple[str, float], texts: Sequence[str] | None = None, logprobs: bool = False) -> pl.DataFrame:
    """GRADED from ``(problem_id, reward)`` rows. Row i's completion ids are [100 + i, 2]: they tell which row it is."""
    frame: list[dict[str, Any]] = [
        {
            **dict.fromkeys(GRADED),
            "problem_id": problem,
            "completion": texts[i] if texts else f"text {i}",
            "prompt_ids": [1, int(problem.removeprefix("p"))],
            "completion_ids": [100 + i, 2],
            "logprobs": [-0.5, -0.25 - i] if logprobs else None,
            "reward": reward,
        }
        for i, (problem, reward) in enumerate(rows)
    ]
    return pl.DataFrame(frame, schema=GRADED)


def weights(selected: pl.DataFrame) -> dict[int, float]:
    """Row -> weight."""
    return dict(selected.select("row", "weight").iter_rows())
