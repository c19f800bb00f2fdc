"""What a study on one's own rollouts is judged by: problems held out of them, a file, and benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from tasks.core.errors import InputError
from tasks.core.frames import PROBLEMS, checked
from tasks.problems.benchmarks import Loaded, keyed
from tasks.problems.files import QUESTION_ALONE
from tasks.problems.overlap import bare_key, instructed


def own_problems(
    *,
    given: Loaded | None,
    rollouts: Path,
    n: int,
    out: Path,
    benchmarks: Sequence[Loaded] = (),
    instruction: str | None = None,
) -> dict[str, Any]:
    """Choose ``n`` held-out problems of ``given``, else of the share that the rollouts held out, and ``n`` a benchmark.

    Problems whose question (white space, case and an instruction sentence aside) is among the rollouts' prompts are
    left out and counted. The choice is by a hash of the question, so it does not depend on the order. Writes
    ``problems.parquet``; its column ``question`` is what is asked, ``instruction`` or a benchmark's template included.
    The summary has for each benchmark its size, template, source and what was left out of it. Raises `InputError` where
    none is left, in all or in one benchmark.
    """
    prompts = pl.read_parquet(rollouts / "rollouts.parquet")["prompt"].unique()
    trained = {bare_key(prompt.replace(instruction or "", "") or prompt) for prompt in prompts}
    source = given.problems.frame if given else checked(pl.read_parquet(rollouts / "heldout.parquet"), PROBLEMS, "held")
    fresh = _fresh(source, trained)
    if fresh.is_empty() and (given or not benchmarks):
        raise InputError(
            "evaluation.problems: no held-out problem with a gold answer is left; give a file of problems that are "
            "not among the rollouts, or raise rollouts.holdout"
        )
    parts = [fresh.head(n).with_columns(split=pl.lit("heldout"))]
    dropped = source.height - fresh.height
    template = instructed(given.template if given else QUESTION_ALONE, instruction)
    summary: dict[str, Any] = {"heldout_template": template} if template != QUESTION_ALONE else {}
    for benchmark in benchmarks:
        frame = benchmark.problems.frame
        unseen = _fresh(frame, trained)
        if unseen.is_empty():
            raise InputError(
                f"evaluation.benchmarks: all {frame.height} problems of {benchmark.name} are among the rollouts; "
                "evaluate on another"
            )
        parts.append(unseen.head(n))
        dropped += frame.height - unseen.height
        summary |= {
            f"{benchmark.name}.n": parts[-1].height,
            f"{benchmark.name}.template": instructed(benchmark.template, instruction),
            f"{benchmark.name}.source": benchmark.source,
            f"{benchmark.name}.shared_with_rollouts_dropped": frame.height - unseen.height,
        }
    chosen = pl.concat(parts)
    shared = len(trained & set(chosen["key"]))
    asked = pl.Series("question", [instructed(question, instruction) for question in chosen["question"]])
    frame = chosen.drop("key").with_columns(asked)
    checked(frame, PROBLEMS, "problems").write_parquet(out / "problems.parquet")
    return {
        "heldout": parts[0].height,
        "available": fresh.height,
        "shared_with_rollouts_dropped": dropped,
        "overlap": shared,
        **summary,
    }


def _fresh(frame: pl.DataFrame, trained: set[int]) -> pl.DataFrame:
    """The problems that were not trained on, in the order of their hashes (column ``key``)."""
    return keyed(frame).filter(~pl.col("key").is_in(list(trained))).sort("key")
