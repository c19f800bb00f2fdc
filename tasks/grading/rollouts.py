"""Give every rollout its reward: the label that came with it, else math-verify's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from tasks.core.digests import StageKey
from tasks.core.frames import GRADED, ROLLOUTS, checked
from tasks.core.results import Progress, no_progress
from tasks.core.stages import GRADE
from tasks.grading import grade as grader
from tasks.grading.grade import agreement, grade_many


def grade_key(rollouts: str) -> StageKey:
    """What decides the rewards. ``rollouts``: digest of the rollouts' artifact."""
    return GRADE.key({"rollouts": rollouts}, {"grader": grader.GRADER})


def grade_rollouts(*, rollouts: Path, out: Path, progress: Progress = no_progress) -> dict[str, Any]:
    """Read ROLLOUTS, write ``rollouts.parquet`` (GRADED) and return its counts.

    A given label wins over the grader; on how many labelled rows the two disagree is counted, and those rows are
    written to ``disagreements.parquet``. Rows without a gold answer keep their label ungraded; labelled rows whose gold
    cannot be read keep their label, are counted (``unparsed_gold``) and compared with nothing. Raises `InputError` for
    a row without label whose gold cannot be read: a reward of 0 would train on nothing the completion did.
    """
    from tasks.grading.golds import refuse_unread

    frame = checked(pl.read_parquet(rollouts), ROLLOUTS, "rollouts")
    gold = frame["answer"].is_not_null()
    gradable = frame.filter(gold)
    grades = grade_many(gradable["completion"].to_list(), gradable["answer"].to_list(), progress)
    labels = gradable["given_reward"].to_list()
    refuse_unread(
        [i for i, grade in enumerate(grades) if labels[i] is None and not grade.gold_parsed],
        gradable["answer"].to_list(),
        gradable["problem_id"].to_list(),
        "rollouts.file",
        "correct it, give a reward with each row, or leave the problem out",
    )
    found = pl.DataFrame(
        {
            "index": frame.with_row_index("index").filter(gold)["index"],
            "extracted": pl.Series([grade.extracted for grade in grades], dtype=pl.String),
            "graded": pl.Series([grade.reward for grade in grades], dtype=pl.Float64),
        }
    )
    joined = frame.with_row_index("index").join(found, on="index", how="left", maintain_order="left").drop("index")
    given = pl.col("given_reward")
    graded = joined.with_columns(
        reward=pl.coalesce(given, "graded"),
        grader=pl.when(given.is_not_null()).then(pl.lit("given")).otherwise(pl.lit(grader.GRADER)),
    )
    same = agreement(
        [label if grade.gold_parsed else None for label, grade in zip(labels, grades, strict=True)], grades
    )
    gradable.with_columns(found["extracted"])[list(same.disagreements)].write_parquet(out / "disagreements.parquet")
    checked(graded.drop("graded"), GRADED, "graded rollouts").write_parquet(out / "rollouts.parquet")
    unparsed_gold = sum(not grade.gold_parsed for grade in grades)
    return {
        **counts(graded),
        "unparsed_gold": unparsed_gold,
        "label_and_grader_compared": same.n,
        "label_and_grader_disagree": same.n - same.agree,
    }


def counts(graded: pl.DataFrame) -> dict[str, int]:
    """Rows, problems, correct rows, mixed groups (neither all right nor all wrong), unparsed and truncated rows."""
    groups = graded.group_by("problem_id").agg(pl.col("reward").mean())
    return {
        "rows": graded.height,
        "prompts": groups.height,
        "correct": int(graded["reward"].sum()),
        "mixed_groups": groups.filter((pl.col("reward") > 0) & (pl.col("reward") < 1)).height,
        "all_correct_groups": groups.filter(pl.col("reward") == 1).height,
        "unparsed": graded.filter(pl.col("answer").is_not_null() & pl.col("extracted").is_null()).height,
        "truncated": graded.filter(pl.col("finish_reason") == "length").height,
        "empty": graded.filter(pl.col("completion") == "").height,
    }
