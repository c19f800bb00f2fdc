"""Rollouts that somebody else made, tokenised for the base at hand. Runs in a worker process.

Rows longer than the context are dropped by the rule ``longer than model.max_length``: never cut, because a cut
completion has lost its answer. Completions that the file does not mark as truncated end with the end-of-sequence token.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from tasks.contracts import PROBLEMS, ROLLOUTS, InputError, Progress, checked, no_progress


def own_rollouts(
    *,
    file: Path,
    base: Path,
    prompt_template: str | None,
    pad_token: str | None,
    max_length: int | None,
    holdout: float,
    out: Path,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Read ``file``, hold out a share of its problems, tokenise the rest.

    Writes ``rollouts.parquet`` (ROLLOUTS) and ``heldout.parquet`` (PROBLEMS, empty where ``holdout`` is 0). Given
    log-probabilities are kept where they match the completion's tokens one to one (with or without a closing
    end-of-sequence token, whose log-probability is then unknown and the row's are dropped).
    """
    from tasks.models.load import context_length, load_tokenizer
    from tasks.models.prompts import completion_ids, prompt_ids
    from tasks.rollouts.files import heldout_split, read_rollouts

    tokenizer = load_tokenizer(base, pad_token)
    limit = context_length(base, max_length)
    raw = read_rollouts(file)
    held = heldout_split(raw["problem_id"].unique(maintain_order=True).to_list(), holdout)
    aside = raw.filter(pl.col("problem_id").is_in(list(held)))
    raw = raw.filter(~pl.col("problem_id").is_in(list(held)))
    _heldout_problems(aside).write_parquet(out / "heldout.parquet")

    prompts = {
        prompt: prompt_ids(tokenizer, prompt, prompt_template) for prompt in raw["prompt"].unique(maintain_order=True)
    }
    completions = []
    for done, (completion, finish) in enumerate(raw.select("completion", "finish_reason").iter_rows(), 1):
        completions.append(completion_ids(tokenizer, completion, closed=finish != "length"))
        if done % 500 == 0 or done == raw.height:
            progress(done, raw.height, "rows tokenised")
    known = [
        values is not None and len(values) == len(ids)
        for values, ids in zip(raw["logprobs"].to_list(), completions, strict=True)
    ]
    frame = raw.with_columns(
        prompt_ids=pl.Series([prompts[prompt] for prompt in raw["prompt"]], dtype=pl.List(pl.Int64)),
        completion_ids=pl.Series(completions, dtype=pl.List(pl.Int64)),
        logprobs=pl.when(pl.Series(known, dtype=pl.Boolean)).then(pl.col("logprobs")),
    ).rename({"reward": "given_reward"})
    length = pl.col("prompt_ids").list.len() + pl.col("completion_ids").list.len()
    fitting = frame.filter(length <= limit)
    if fitting.is_empty():
        raise InputError(
            f"model.max_length: all {frame.height} rows of {file.name} are longer than {limit} tokens; "
            "use a base with a longer context"
        )
    checked(fitting.select(ROLLOUTS.keys()), ROLLOUTS, "rollouts").write_parquet(out / "rollouts.parquet")
    return {
        "rows": fitting.height,
        "problems": fitting["problem_id"].n_unique(),
        "dropped_too_long": frame.height - fitting.height,
        "problems_lost": frame["problem_id"].n_unique() - fitting["problem_id"].n_unique(),
        "heldout_problems": len(held),
        "max_length": limit,
    }


def _heldout_problems(aside: pl.DataFrame) -> pl.DataFrame:
    """One PROBLEMS row a held-out problem that has a gold answer."""
    first = aside.unique("problem_id", keep="first", maintain_order=True).filter(pl.col("answer").is_not_null())
    frame = first.select(
        "problem_id",
        pl.lit("heldout").alias("split"),
        pl.col("prompt").alias("question"),
        "answer",
        pl.lit(None, dtype=pl.String).alias("solution"),
    )
    return checked(frame, PROBLEMS, "held-out problems")
