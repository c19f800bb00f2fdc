"""Answer every held-out problem with many models at once and grade the answers. Runs in a worker process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from tasks.contracts import ITEMS, PROBLEMS, InputError, Progress, RunInfo, checked, no_progress
from tasks.specs import EvaluationSpec

NOT_EVALUATED = ("dev", "rollouts")
"""Splits of a study's problems that have another use."""


@dataclass(frozen=True)
class Asked:
    """One model to ask: the base, with an adapter or bare, as it is asked in training or in the teacher's style."""

    info: RunInfo
    adapter: Path | None = None
    instructed: bool = False
    """Ask for the teacher's style (embedded world only)."""


@dataclass(frozen=True)
class _Problem:
    benchmark: str
    problem_id: str
    gold: str
    prompts: tuple[tuple[int, ...], ...]
    """One a model asked."""
    reference: tuple[int, ...]


def evaluate_models(
    *,
    base: Path,
    asked: Sequence[Asked],
    partials: Sequence[Path],
    problems: Path,
    spec: EvaluationSpec,
    share: tuple[int, int],
    prompt_template: str | None,
    pad_token: str | None,
    max_length: int | None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Answers of ``base`` with every adapter, side by side in one batch, to the problems that are not training's.

    ``share`` (i, m): every m-th problem from the i-th on. Sample 0 is greedy; with ``spec.samples`` there are as many
    more, drawn at ``spec.temperature`` from a seed of their own (problem and sample decide it, so all models get one
    luck). Also scored is the cross-entropy of each problem's reference solution, or of ``\\boxed{gold}`` where no
    solution is known, given the prompt. A problem whose prompt and answer do not fit the model's context is left out
    and counted (``too_long``), as are golds that the grader cannot read (``unparsed_golds``, no answer is right there).

    Each model's answers are appended, problem by problem, to a file in its folder of ``partials``; what is in there
    already is not done again. `collect` makes the frame of them. The base is held once; memory is its weights, the
    adapters, and the cache of ``spec.batch_size`` rows.
    """
    from tasks.grading.golds import unparsed_golds
    from tasks.models.load import load_adapters, load_tokenizer

    tokenizer = load_tokenizer(base, pad_token)
    todo, left_out = _read(base, asked, problems, spec, tokenizer, prompt_template, max_length)
    todo = todo[share[0] :: share[1]]
    done = [{(row["benchmark"], row["problem_id"], row["sample"]) for row in rows_of(folder)} for folder in partials]
    model = load_adapters(base, {one.info.run: one.adapter for one in asked if one.adapter is not None})
    rows = len(asked) * (1 + spec.samples)
    size = max(1, spec.batch_size // rows)
    total = len(todo) * rows
    for start in range(0, len(todo), size):
        batch = todo[start : start + size]
        wanted = [
            (problem, i, sample)
            for problem in batch
            for sample in range(1 + spec.samples)
            for i in range(len(asked))
            if (problem.benchmark, problem.problem_id, sample) not in done[i]
        ]
        lines: dict[int, list[str]] = {}
        for i, row in _answer(model, tokenizer, asked, wanted, spec):
            lines.setdefault(i, []).append("\n" + json.dumps(row))  # a line left half written ends here
        for i, found in lines.items():
            with (partials[i] / f"{share[0]}-{share[1]}.jsonl").open("a", encoding="utf-8") as file:
                file.writelines(found)
        progress(min(start + size, len(todo)) * rows, total, "answers")
    return {"too_long": left_out, "unparsed_golds": len(unparsed_golds([problem.gold for problem in todo]))}


def _read(
    base: Path,
    asked: Sequence[Asked],
    problems: Path,
    spec: EvaluationSpec,
    tokenizer: Any,
    template: str | None,
    max_length: int | None,
) -> tuple[list[_Problem], int]:
    """The problems that fit, shortest prompt first, and the number of those that do not."""
    from tasks.models.load import context_length
    from tasks.models.prompts import completion_ids, prompt_ids
    from tasks.problems.synthetic import instruct

    limit = context_length(base, max_length)
    frame = checked(pl.read_parquet(problems), PROBLEMS, "problems").filter(~pl.col("split").is_in(NOT_EVALUATED))
    fitting: list[_Problem] = []
    for benchmark, problem_id, question, gold, solution in frame.select(
        "split", "problem_id", "question", "answer", "solution"
    ).iter_rows():
        plain = tuple(prompt_ids(tokenizer, question, template))
        instructed = plain
        if any(one.instructed for one in asked):
            instructed = tuple(prompt_ids(tokenizer, instruct(question), template))
        prompts = tuple(instructed if one.instructed else plain for one in asked)
        reference = tuple(completion_ids(tokenizer, solution if solution is not None else f"\\boxed{{{gold}}}"))
        if max(map(len, prompts)) + max(spec.max_new_tokens, len(reference)) <= limit:
            fitting.append(_Problem(benchmark, problem_id, gold, prompts, reference))
    if not fitting:
        raise InputError(
            f"evaluation.max_new_tokens: no problem fits: with {spec.max_new_tokens} tokens to answer, every prompt is "
            f"beyond the model's {limit}; lower it"
        )
    return sorted(fitting, key=lambda problem: max(map(len, problem.prompts))), frame.height - len(fitting)


def _answer(
    model: Any,
    tokenizer: Any,
    asked: Sequence[Asked],
    wanted: Sequence[tuple[_Problem, int, int]],
    spec: EvaluationSpec,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(model asked, ITEMS row) for each of ``wanted`` (problem, model asked, sample)."""
    from tasks.grading.grade import grade_many
    from tasks.models.generate import Generated, generate
    from tasks.models.load import BARE
    from tasks.models.score import sequence_nll

    several = any(one.adapter is not None for one in asked)
    names = [one.info.run if one.adapter is not None else BARE for one in asked]

    def adapters(rows: Sequence[tuple[_Problem, int, int]]) -> list[str] | None:
        return [names[i] for _, i, _ in rows] if several else None

    ids = {"eos_id": tokenizer.eos_token_id, "pad_id": tokenizer.pad_token_id}
    greedy = [row for row in wanted if row[2] == 0]
    drawn = [row for row in wanted if row[2] > 0]
    losses = sequence_nll(
        model,
        [problem.prompts[i] for problem, i, _ in greedy],
        [problem.reference for problem, _, _ in greedy],
        pad_id=ids["pad_id"],
        batch_size=spec.batch_size,
        adapters=adapters(greedy),
    )
    answers: list[Generated] = []
    for rows, temperature in ((greedy, None), (drawn, spec.temperature)):
        answers += generate(
            model,
            [problem.prompts[i] for problem, i, _ in rows],
            **ids,
            max_new_tokens=spec.max_new_tokens,
            batch_size=spec.batch_size,
            temperature=temperature,
            seeds=[seed_of(spec.seed, problem.benchmark, problem.problem_id, sample) for problem, _, sample in rows],
            adapters=adapters(rows),
        )
    texts = [tokenizer.decode(answer.ids, skip_special_tokens=True) for answer in answers]
    grades = grade_many(texts, [problem.gold for problem, _, _ in [*greedy, *drawn]])
    for place, (problem, i, sample) in enumerate([*greedy, *drawn]):
        yield (
            i,
            {
                **asdict(asked[i].info),
                "benchmark": problem.benchmark,
                "problem_id": problem.problem_id,
                "sample": sample,
                "completion": texts[place],
                "prediction": grades[place].extracted,
                "gold": problem.gold,
                "correct": grades[place].reward == 1.0,
                "finish_reason": answers[place].finish_reason,
                "answer_nll": losses[place] if sample == 0 else None,
                "answer_tokens": len(problem.reference) if sample == 0 else None,
            },
        )


def seed_of(seed: int, benchmark: str, problem_id: str, sample: int) -> int:
    """A seed of 63 bits for one sample of one problem, the same for every model and in every batch."""
    text = json.dumps([seed, benchmark, problem_id, sample])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def rows_of(folder: Path) -> Iterator[dict[str, Any]]:
    """The answers in a model's folder. A line that a killed process left half written is skipped."""
    for file in sorted(folder.glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                yield dict(json.loads(line))
            except ValueError:
                continue


def collect(folder: Path, problems: pl.DataFrame) -> pl.DataFrame:
    """One model's answers in the ITEMS schema, in the problems' order."""
    items = checked(pl.DataFrame(list(rows_of(folder)), schema=ITEMS), ITEMS, "items")
    order = problems.select(benchmark="split", problem_id="problem_id").with_row_index("order")
    return (
        items.unique(["benchmark", "problem_id", "sample"], keep="first")
        .join(order, on=["benchmark", "problem_id"])
        .sort("order", "sample")
        .drop("order")
    )
