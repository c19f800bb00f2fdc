"""Sample the rollouts of the embedded world from its teacher. Runs in a worker process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from tasks.contracts import PROBLEMS, ROLLOUTS, Progress, checked, no_progress
from tasks.specs import RolloutSpec


def sample_rollouts(
    *, teacher: Path, student: Path, problems: Path, spec: RolloutSpec, out: Path, progress: Progress = no_progress
) -> dict[str, Any]:
    """K completions of the teacher for every problem of split ``rollouts``, written as ``rollouts.parquet`` (ROLLOUTS).

    The teacher is asked in its own style; the rows carry the PLAIN prompt's token ids, which is what the student is
    trained on. Behaviour log-probabilities are the teacher's at the sampling temperature, under its own prompt. Each
    row has a seed of its own, so a row does not depend on which others are sampled with it. Truncated completions are
    kept and marked ``length``.
    """
    from tasks.models.generate import generate
    from tasks.models.load import load_model, load_tokenizer
    from tasks.models.prompts import prompt_ids
    from tasks.problems.synthetic import instruct

    tokenizer = load_tokenizer(student)
    frame = checked(pl.read_parquet(problems), PROBLEMS, "problems").filter(pl.col("split") == "rollouts")
    rows = frame.join(pl.DataFrame({"rollout_id": range(spec.k)}), how="cross")
    asked = [prompt_ids(tokenizer, instruct(question)) for question in frame["question"]]
    seeds = [spec.seed * 1_000_003 + row for row in range(rows.height)]
    completions = generate(
        load_model(teacher),
        [prompt for prompt in asked for _ in range(spec.k)],
        eos_id=tokenizer.eos_token_id,
        pad_id=tokenizer.pad_token_id,
        max_new_tokens=spec.max_new_tokens,
        batch_size=512,
        temperature=spec.temperature,
        seeds=seeds,
        progress=progress,
    )
    plain = [prompt_ids(tokenizer, question) for question in frame["question"]]
    rollouts = pl.DataFrame(
        {
            "problem_id": rows["problem_id"],
            "rollout_id": rows["rollout_id"],
            "prompt": rows["question"],
            "completion": [tokenizer.decode(one.ids, skip_special_tokens=True) for one in completions],
            "prompt_ids": [prompt for prompt in plain for _ in range(spec.k)],
            "completion_ids": [list(one.ids) for one in completions],
            "logprobs": [list(one.logprobs or ()) for one in completions],
            "finish_reason": [one.finish_reason for one in completions],
            "seed": seeds,
            "answer": rows["answer"],
            "given_reward": pl.Series([None] * rows.height, dtype=pl.Float64),
        }
    )
    checked(rollouts, ROLLOUTS, "rollouts").write_parquet(out / "rollouts.parquet")
    return {"rows": rollouts.height, "problems": frame.height, "dropped_too_long": 0}
