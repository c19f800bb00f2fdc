"""Answer every held-out problem with one model and grade the answers. Runs in a worker process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from tasks.contracts import ITEMS, PROBLEMS, InputError, Progress, RunInfo, checked, no_progress
from tasks.specs import EvaluationSpec


def evaluate_run(
    *,
    base: Path,
    adapter: Path | None,
    problems: Path,
    info: RunInfo,
    spec: EvaluationSpec,
    prompt_template: str | None,
    pad_token: str | None,
    max_length: int | None,
    instructed: bool,
    out: Path,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Greedy answers of ``base`` (+ ``adapter``, merged) to the problems of splits ``heldout`` and ``hard``.

    Writes ``items.parquet`` (ITEMS). Also scored is the cross-entropy of each problem's reference solution, or of
    ``\\boxed{gold}`` where no solution is known, given the prompt. ``instructed`` asks in the teacher's style (embedded
    world only). A problem whose prompt and answer do not fit the model's context is left out and counted.
    """
    from tasks.grading.grade import grade_many
    from tasks.models.generate import generate
    from tasks.models.load import context_length, load_model, load_tokenizer
    from tasks.models.prompts import completion_ids, prompt_ids
    from tasks.models.score import sequence_nll
    from tasks.problems.synthetic import instruct

    tokenizer = load_tokenizer(base, pad_token)
    limit = context_length(base, max_length)
    frame = checked(pl.read_parquet(problems), PROBLEMS, "problems").filter(pl.col("split").is_in(["heldout", "hard"]))
    prompts = [
        prompt_ids(tokenizer, instruct(question) if instructed else question, prompt_template)
        for question in frame["question"]
    ]
    references = [
        completion_ids(tokenizer, solution if solution is not None else f"\\boxed{{{gold}}}")
        for solution, gold in frame.select("solution", "answer").iter_rows()
    ]
    fits = [
        len(prompt) + max(spec.max_new_tokens, len(reference)) <= limit
        for prompt, reference in zip(prompts, references, strict=True)
    ]
    frame = frame.filter(pl.Series(fits))
    prompts = [prompt for prompt, fit in zip(prompts, fits, strict=True) if fit]
    references = [reference for reference, fit in zip(references, fits, strict=True) if fit]

    if frame.is_empty():
        raise InputError(
            f"evaluation.max_new_tokens: no problem fits: with {spec.max_new_tokens} tokens to answer, every prompt is "
            f"beyond the model's {limit}; lower it"
        )
    model = load_model(base, adapter=adapter)
    answers = generate(
        model,
        prompts,
        eos_id=tokenizer.eos_token_id,
        pad_id=tokenizer.pad_token_id,
        max_new_tokens=spec.max_new_tokens,
        batch_size=spec.batch_size,
        progress=lambda done, total, note: progress(done, 2 * total, "answers"),
    )
    texts = [tokenizer.decode(answer.ids, skip_special_tokens=True) for answer in answers]
    grades = grade_many(texts, frame["answer"].to_list())
    losses = sequence_nll(
        model,
        prompts,
        references,
        pad_id=tokenizer.pad_token_id,
        batch_size=spec.batch_size,
        progress=lambda done, total, note: progress(total + done, 2 * total, note),
    )
    n = frame.height
    items = pl.DataFrame(
        {
            "run": [info.run] * n,
            "method": [info.method] * n,
            "seed": [info.seed] * n,
            "data_seed": [info.data_seed] * n,
            "lr": [info.lr] * n,
            "benchmark": frame["split"],
            "problem_id": frame["problem_id"],
            "sample": [0] * n,
            "completion": texts,
            "prediction": [grade.extracted for grade in grades],
            "gold": frame["answer"],
            "correct": [grade.reward == 1.0 for grade in grades],
            "finish_reason": [answer.finish_reason for answer in answers],
            "answer_nll": losses,
            "answer_tokens": [len(reference) for reference in references],
        }
    )
    checked(items, ITEMS, "items").write_parquet(out / "items.parquet")
    heldout = items.filter(pl.col("benchmark") == "heldout")
    return {
        "n": heldout.height,
        "correct": int(heldout["correct"].sum()),
        "boxed_references": frame["solution"].null_count(),
        "too_long": fits.count(False),
    }
