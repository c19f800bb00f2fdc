"""The held-out problems of a study on one's own rollouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from tasks.contracts import PROBLEMS, InputError, checked
from tasks.problems.files import read_problems
from tasks.problems.overlap import question_key


def own_problems(*, file: Path | None, rollouts: Path, n: int, out: Path) -> dict[str, Any]:
    """Choose ``n`` held-out problems: of ``file``, else of the share that the rollouts held out.

    Problems whose question (white space and case aside) is among the rollouts' prompts are left out and counted. The
    choice is by a hash of the question, so it does not depend on the file's order. Writes ``problems.parquet``.
    Raises `InputError` where none is left.
    """
    source = read_problems(file) if file else checked(pl.read_parquet(rollouts / "heldout.parquet"), PROBLEMS, "held")
    trained = {question_key(prompt) for prompt in pl.read_parquet(rollouts / "rollouts.parquet")["prompt"].unique()}
    keys = [question_key(question) for question in source["question"]]
    fresh = source.with_columns(pl.Series("key", keys)).filter(~pl.col("key").is_in(list(trained)))
    if fresh.is_empty():
        raise InputError(
            "evaluation.problems: no held-out problem with a gold answer is left; give a file of problems that are "
            "not among the rollouts, or raise rollouts.holdout"
        )
    chosen = fresh.sort("key").head(n).drop("key").with_columns(split=pl.lit("heldout"))
    checked(chosen, PROBLEMS, "problems").write_parquet(out / "problems.parquet")
    return {
        "heldout": chosen.height,
        "available": fresh.height,
        "shared_with_rollouts_dropped": source.height - fresh.height,
        "overlap": len(trained & set(fresh.sort("key").head(n)["key"])),
    }
