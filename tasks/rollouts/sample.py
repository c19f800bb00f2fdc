"""Ask a teacher for K completions a problem. Runs in a worker process."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from tasks.contracts import COMPLETIONS, PROBLEMS, ROLLOUTS, InputError, Progress, checked, no_progress
from tasks.engines.interface import Completion, Engine, Request, Sampling, seed_of
from tasks.engines.journal import Journal, complete
from tasks.rollouts.own import without_truncated
from tasks.rollouts.teacher import TEACHER, teacher_tokenizer, tokenizer_digest
from tasks.specs import RolloutSpec


def sample_completions(
    *, problems: Path, teacher: Path | None, spec: RolloutSpec, journal: Path, out: Path,
    progress: Progress = no_progress,
) -> dict[str, Any]:  # fmt: skip
    """The teacher's completions of all ``problems``, written as ``completions.parquet`` (COMPLETIONS).

    ``teacher``: its folder, None for an endpoint. It is asked through its own chat template, or
    ``rollouts.teacher_template``. Problems that leave no room for a completion in its context are left out and counted.
    ``journal`` keeps what is there already if this is killed. Raises `InputError` where no problem fits.
    """
    from tasks.engines.choose import open_engine
    from tasks.models.load import context_length
    from tasks.models.prompts import prompt_ids

    tokenizer = teacher_tokenizer(spec, teacher)
    frame = checked(pl.read_parquet(problems), PROBLEMS, "problems")
    prompts: list[tuple[int, ...] | None] = [None] * frame.height
    if tokenizer is not None:
        prompts = [tuple(prompt_ids(tokenizer, question, spec.teacher_template)) for question in frame["question"]]
    limit = None if teacher is None else context_length(teacher) - spec.max_new_tokens
    fits = [limit is None or prompt is None or len(prompt) <= limit for prompt in prompts]
    if not any(fits):
        raise InputError(
            f"rollouts.max_new_tokens: with {spec.max_new_tokens} tokens for an answer none of the {frame.height} "
            "problems fits the teacher's context"
        )
    asked = frame.filter(pl.Series(fits))
    kept = [prompt for prompt, fit in zip(prompts, fits, strict=True) if fit]
    found = ask(open_engine(spec, teacher), asked, asked["question"].to_list(), kept, spec, Journal(journal), progress)
    found.write_parquet(out / "completions.parquet")
    digest = None if tokenizer is None else tokenizer_digest(tokenizer)
    (out / TEACHER).write_text(json.dumps({"tokenizer": digest}))
    return {
        "rows": found.height,
        "problems": asked.height,
        "too_long_for_teacher": frame.height - asked.height,
        "truncated": found.filter(finish_reason="length").height,
        "with_ids": found.height - found["completion_ids"].null_count(),
        "with_logprobs": found.height - found["logprobs"].null_count(),
    }


def ask(
    engine: Engine,
    problems: pl.DataFrame,
    texts: Sequence[str],
    prompts: Sequence[tuple[int, ...] | None],
    spec: RolloutSpec,
    journal: Journal,
    progress: Progress = no_progress,
) -> pl.DataFrame:
    """COMPLETIONS: K for each of P ``problems``, which the teacher is asked as ``texts`` and ``prompts`` (token ids).

    The seed of a completion is a hash of the sampling seed, the problem and its place among the K: it depends on
    nothing that is sampled beside it. Completions cut at ``max_new_tokens`` are kept and marked ``length``. What is in
    the journal is not asked for again.
    """
    requests = [
        Request(json.dumps([name, i]), text, prompt, seed_of(spec.seed, name, i))
        for name, text, prompt in zip(problems["problem_id"], texts, prompts, strict=True)
        for i in range(spec.k)
    ]
    total = len(requests)

    def told(_: Request, __: Completion) -> None:
        progress(len(journal.found), total, "completions")

    complete(engine, requests, Sampling(spec.max_new_tokens, spec.temperature, logprobs=True), journal, told)
    found = [journal.found[request.id] for request in requests]
    rows = problems.join(pl.DataFrame({"rollout_id": range(spec.k)}), how="cross", maintain_order="left_right")
    frame = rows.select(
        "problem_id",
        "rollout_id",
        pl.col("question").alias("prompt"),
        "answer",
        pl.Series("completion", [one.text for one in found], dtype=pl.String),
        pl.Series("completion_ids", [one.ids for one in found], dtype=pl.List(pl.Int64)),
        pl.Series("logprobs", [one.logprobs for one in found], dtype=pl.List(pl.Float64)),
        pl.Series("finish_reason", [one.finish_reason for one in found], dtype=pl.String),
        pl.Series("seed", [request.seed for request in requests], dtype=pl.Int64),
    )
    return checked(frame, COMPLETIONS, "completions")


def sample_world(
    *, teacher: Path, student: Path, problems: Path, spec: RolloutSpec, journal: Path, out: Path,
    progress: Progress = no_progress,
) -> dict[str, Any]:  # fmt: skip
    """K completions of the embedded teacher for every problem of split ``rollouts``: ``rollouts.parquet`` (ROLLOUTS).

    The teacher is asked in its own style; the rows carry the PLAIN prompt's token ids, which is what the student is
    trained on. Behaviour log-probabilities are the teacher's at the sampling temperature, under its own prompt.
    """
    from tasks.engines.choose import open_engine
    from tasks.models.load import load_tokenizer
    from tasks.models.prompts import prompt_ids
    from tasks.problems.synthetic import instruct

    tokenizer = load_tokenizer(student)
    frame = checked(pl.read_parquet(problems), PROBLEMS, "problems").filter(pl.col("split") == "rollouts")
    texts = [instruct(question) for question in frame["question"]]
    prompts = [tuple(prompt_ids(tokenizer, text)) for text in texts]
    found = ask(open_engine(spec, teacher), frame, texts, prompts, spec, Journal(journal), progress)
    plain = [prompt_ids(tokenizer, question) for question in frame["question"] for _ in range(spec.k)]
    rollouts = found.with_columns(
        prompt_ids=pl.Series(plain, dtype=pl.List(pl.Int64)), given_reward=pl.lit(None, dtype=pl.Float64)
    )
    kept = without_truncated(rollouts, spec.truncated)
    checked(kept.select(ROLLOUTS.keys()), ROLLOUTS, "rollouts").write_parquet(out / "rollouts.parquet")
    return {
        "rows": kept.height,
        "problems": kept["problem_id"].n_unique(),
        "dropped_too_long": 0,
        "dropped_truncated": rollouts.height - kept.height,
    }
