"""Answer every held-out problem with many models at once and grade the answers. Runs in a worker process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from tasks.contracts import ITEMS, Progress, RunInfo, StageError, checked, no_progress
from tasks.evaluation.questions import Question, read_questions
from tasks.specs import EvaluationSpec

SCORED = 64
"""Most reference solutions in one forward pass. It holds the activations and logits of every token at once: eight times
as many took 1.8 times as long on a CPU, whose caches they leave, and fill a GPU where the vocabulary is large."""


@dataclass(frozen=True)
class Asked:
    """One model to ask: the base, with an adapter or bare, as it is asked in training or in the teacher's style."""

    info: RunInfo
    adapter: Path | None = None
    instructed: bool = False
    """Ask for the teacher's style (embedded world only)."""


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
    solution is known, given the prompt. A problem that does not fit the context with a model's own prompt and an answer
    is left out for that model. Returns, one entry a model: ``too_long``, how many these are of all problems, and
    ``unparsed_golds`` {benchmark: how many golds of this share the grader cannot read; no answer is right there}.

    Each model's answers are appended, problem by problem, to a file in its folder of ``partials``; what is in there
    already is not done again. `collect` makes the frame of them. The base is held once; memory is its weights, the
    adapters, and the cache of ``spec.batch_size`` rows.
    """
    from tasks.models.load import load_adapters, load_tokenizer

    tokenizer = load_tokenizer(base, pad_token)
    styles = [one.instructed for one in asked]
    todo, too_long = read_questions(base, styles, problems, spec, tokenizer, prompt_template, max_length)
    todo = todo[share[0] :: share[1]]
    done = [{(row["benchmark"], row["problem_id"], row["sample"]) for row in rows_of(folder)} for folder in partials]
    model = load_adapters(base, {one.info.run: one.adapter for one in asked if one.adapter is not None})
    rows = len(asked) * (1 + spec.samples)
    size = max(1, spec.batch_size // rows)
    for start in range(0, len(todo), size):
        wanted = [
            (question, i, sample)
            for question in todo[start : start + size]
            for sample in range(1 + spec.samples)
            for i in range(len(asked))
            if question.prompts[i] is not None and (question.benchmark, question.problem_id, sample) not in done[i]
        ]
        lines: dict[int, list[str]] = {}
        for i, row in _answer(model, tokenizer, asked, wanted, spec):
            lines.setdefault(i, []).append("\n" + json.dumps(row))  # a line left half written ends here
        for i, found in lines.items():
            with (partials[i] / f"{share[0]}-{share[1]}.jsonl").open("a", encoding="utf-8") as file:
                file.writelines(found)
        progress(min(start + size, len(todo)) * rows, len(todo) * rows, "answers")
    return {"too_long": too_long, "unparsed_golds": _unparsed(todo, len(asked))}


def _unparsed(todo: Sequence[Question], models: int) -> list[dict[str, int]]:
    """For each model, how many golds of each benchmark that it is asked cannot be read."""
    from tasks.grading.golds import unparsed_golds

    unread = set(unparsed_golds([question.gold for question in todo]))
    found: list[dict[str, int]] = [{} for _ in range(models)]
    for place, question in enumerate(todo):
        for counts, prompt in zip(found, question.prompts, strict=True):
            if prompt is not None:
                counts[question.benchmark] = counts.get(question.benchmark, 0) + (place in unread)
    return found


def _answer(
    model: Any,
    tokenizer: Any,
    asked: Sequence[Asked],
    wanted: Sequence[tuple[Question, int, int]],
    spec: EvaluationSpec,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(model asked, ITEMS row) for each of ``wanted`` (question, model asked, sample)."""
    from tasks.grading.grade import grade_many
    from tasks.models.generate import Generated, generate
    from tasks.models.load import BARE
    from tasks.models.score import sequence_nll

    several = any(one.adapter is not None for one in asked)
    names = [one.info.run if one.adapter is not None else BARE for one in asked]

    def adapters(rows: Sequence[tuple[Question, int, int]]) -> list[str] | None:
        return [names[i] for _, i, _ in rows] if several else None

    def prompts(rows: Sequence[tuple[Question, int, int]]) -> list[tuple[int, ...]]:
        return [prompt for question, i, _ in rows if (prompt := question.prompts[i]) is not None]

    ids = {"eos_id": tokenizer.eos_token_id, "pad_id": tokenizer.pad_token_id}
    greedy = [row for row in wanted if row[2] == 0]
    drawn = [row for row in wanted if row[2] > 0]
    losses = sequence_nll(
        model,
        prompts(greedy),
        [question.reference for question, _, _ in greedy],
        pad_id=ids["pad_id"],
        batch_size=min(spec.batch_size, SCORED),
        adapters=adapters(greedy),
    )
    answers: list[Generated] = []
    for rows, temperature in ((greedy, None), (drawn, spec.temperature)):
        answers += generate(
            model,
            prompts(rows),
            **ids,
            max_new_tokens=spec.max_new_tokens,
            batch_size=spec.batch_size,
            temperature=temperature,
            seeds=[seed_of(spec.seed, question.benchmark, question.problem_id, sample) for question, _, sample in rows],
            adapters=adapters(rows),
        )
    texts = [tokenizer.decode(answer.ids, skip_special_tokens=True) for answer in answers]
    grades = grade_many(texts, [question.gold for question, _, _ in [*greedy, *drawn]])
    for place, (question, i, sample) in enumerate([*greedy, *drawn]):
        yield (
            i,
            {
                **asdict(asked[i].info),
                "benchmark": question.benchmark,
                "problem_id": question.problem_id,
                "sample": sample,
                "completion": texts[place],
                "prediction": grades[place].extracted,
                "gold": question.gold,
                "correct": grades[place].reward == 1.0,
                "finish_reason": answers[place].finish_reason,
                "answer_nll": losses[place] if sample == 0 else None,
                "answer_tokens": len(question.reference) if sample == 0 else None,
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


def collect(folder: Path, problems: pl.DataFrame, expected: int | None = None) -> pl.DataFrame:
    """One model's answers in the ITEMS schema, in the problems' order.

    Raises `StageError` where there are not ``expected`` of them: fewer would pass for a smaller benchmark.
    """
    items = checked(pl.DataFrame(list(rows_of(folder)), schema=ITEMS), ITEMS, "items")
    order = problems.select(benchmark="split", problem_id="problem_id").with_row_index("order")
    found = (
        items.unique(["benchmark", "problem_id", "sample"], keep="first")
        .join(order, on=["benchmark", "problem_id"])
        .sort("order", "sample")
        .drop("order")
    )
    if expected is not None and found.height != expected:
        raise StageError(
            f"{found.height} answers are there, not the {expected} that were asked for; run the study again: it asks "
            f"for what is missing (or, to ask anew, remove {folder})"
        )
    return found
