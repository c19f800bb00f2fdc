"""Which problems a teacher is asked, and which of them are kept for evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from tasks.core.digests import StageKey
from tasks.core.errors import InputError
from tasks.core.frames import PROBLEMS, checked
from tasks.core.sections import RolloutSpec
from tasks.core.stages import PROMPTS
from tasks.grading import grade
from tasks.problems.benchmarks import Loaded, frame_digest, open_prompts
from tasks.rollouts.files import heldout_split


def chosen_prompts(spec: RolloutSpec) -> tuple[Loaded, pl.DataFrame]:
    """The set that ``rollouts.problems`` names, and ``rollouts.prompts`` problems of it, chosen by hash."""
    assert spec.problems is not None
    loaded = open_prompts(spec.problems, spec.columns)
    return loaded, loaded.choose(spec.prompts)


def prompts_key(chosen: pl.DataFrame, holdout: float) -> StageKey:
    """What decides the output of `split_prompts`."""
    settings = {"holdout": holdout, "grader": grade.GRADER}  # which leaves out golds that it cannot read
    return PROMPTS.key({"problems": frame_digest(chosen)}, settings)


def split_prompts(*, loaded: Loaded, chosen: pl.DataFrame, holdout: float, out: Path) -> dict[str, Any]:
    """Write ``asked.parquet`` and ``heldout.parquet`` (PROBLEMS): a share ``holdout`` of ``chosen`` is held out.

    Problems whose gold the grader cannot read are left out and counted: no completion could be right. Raises
    `InputError` where nothing is left to ask.
    """
    from tasks.grading.grade import unparsed_golds

    unread = set(unparsed_golds(chosen["answer"].to_list()))
    readable = chosen.with_row_index("index").filter(~pl.col("index").is_in(list(unread))).drop("index")
    if readable.is_empty():
        raise InputError(f"rollouts.problems: no gold answer of {loaded.name} can be read by the grader; give others")
    held = pl.col("problem_id").is_in(list(heldout_split(readable["problem_id"], holdout)))
    asked, aside = readable.filter(~held), readable.filter(held).with_columns(split=pl.lit("heldout"))
    for name, frame in (("asked", asked), ("heldout", aside)):
        checked(frame, PROBLEMS, name).write_parquet(out / f"{name}.parquet")
    return {
        "source": loaded.source,
        "template": loaded.template,
        "asked": asked.height,
        "heldout": aside.height,
        "unparsed_golds": len(unread),
        "without_gold": loaded.problems.without_gold,
        "repeated": loaded.problems.repeated,
    }
