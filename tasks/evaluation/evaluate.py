"""Answer every held-out problem with many models at once and grade the answers. Runs in a worker process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from tasks.core.errors import StageError
from tasks.core.frames import ITEMS, checked
from tasks.core.results import LocalBase, Progress, no_progress
from tasks.core.sections import EvaluationSpec
from tasks.engines.interface import seed_of
from tasks.engines.journal import read_lines
from tasks.evaluation.answers import Asked, Wanted, adapters_of, graded, keep, prompt_of, scored
from tasks.evaluation.questions import Question, read_questions

if TYPE_CHECKING:
    from tasks.models.generate import Generated
    from tasks.models.turn import Turn

AT_ONCE = 4
"""Batches that are decoded in one go."""

KEPT, KEPT_SECONDS = 32, 20.0
"""Answers are written to disk so many at a time, or after so many seconds: at most these are lost with a process."""


Put = Callable[[Sequence[tuple[int, dict[str, Any]]]], None]


def evaluate_models(
    *,
    base: LocalBase,
    asked: Sequence[Asked],
    partials: Sequence[Path],
    problems: Path,
    spec: EvaluationSpec,
    share: tuple[int, int],
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Answers of ``base`` with every adapter, side by side in one batch, to the problems that are not training's.

    ``share`` (i, m): every m-th problem from the i-th on. Sample 0 is greedy; with ``spec.samples`` there are as many
    more, drawn at ``spec.temperature`` from a seed of their own (problem and sample decide it, so all models get one
    luck). ``spec.engine`` generates them. Also scored, by transformers, is the cross-entropy of each problem's
    reference solution, or of ``\\boxed{gold}`` where no solution is known, given the prompt. A problem that does not
    fit the context with a model's own prompt and an answer is left out for that model. Returns, one entry a model:
    ``too_long``, how many these are of all problems, and ``unparsed_golds`` {benchmark: how many golds of this share
    the grader cannot read; no answer is right there}.

    Each model's answers are appended, problem by problem, to a file in its folder of ``partials``; what is in there
    already is not done again. `collect` makes the frame of them. The base is held once; memory is its weights, the
    adapters, and the cache of ``spec.batch_size`` rows.
    """
    from tasks.models.decode import can_decode
    from tasks.models.load import load_adapters
    from tasks.models.turn import turn_at

    turn = turn_at(base)
    styles = [one.instructed for one in asked]
    todo, too_long = read_questions(base.folder, styles, problems, spec, turn, base.max_length)
    todo = todo[share[0] :: share[1]]
    done = [{(row["benchmark"], row["problem_id"], row["sample"]) for row in rows_of(folder)} for folder in partials]
    every = len(asked) * (1 + spec.samples)
    file = f"{share[0]}-{share[1]}.jsonl"

    def wanted(questions: Sequence[Question]) -> list[Wanted]:
        return [
            (question, i, sample)
            for question in questions
            for sample in range(1 + spec.samples)
            for i in range(len(asked))
            if question.prompts[i] is not None and (question.benchmark, question.problem_id, sample) not in done[i]
        ]

    if spec.engine == "vllm":
        from tasks.evaluation.through_vllm import answer_all

        answer_all(base, turn, asked, wanted(todo), spec, partials, file, progress)
    else:
        model = load_adapters(base.folder, {one.info.run: one.adapter for one in asked if one.adapter is not None})
        # Where answers that end make room for others, a batch is better one of several: its last answers end alone.
        size = max(1, (AT_ONCE if can_decode(model) else 1) * spec.batch_size // every)
        every_answer = len(todo) * every
        told = every_answer - len(wanted(todo))

        def put(rows: Sequence[tuple[int, dict[str, Any]]]) -> None:
            nonlocal told
            keep(rows, partials, file)
            told += len(rows)
            progress(told, every_answer, "answers")

        for start in range(0, len(todo), size):
            _answer(model, turn, asked, wanted(todo[start : start + size]), spec, put)
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
    model: Any, turn: Turn, asked: Sequence[Asked], wanted: Sequence[Wanted], spec: EvaluationSpec, put: Put
) -> None:
    """Give ``put`` the (model asked, ITEMS row) of each of ``wanted`` as transformers' answers end, some at a time."""
    from tasks.models.generate import generate

    greedy = [one for one in wanted if one[2] == 0]
    drawn = [one for one in wanted if one[2] > 0]
    losses = scored(model, asked, greedy, pad_id=turn.tokenizer.pad_token_id, batch_size=spec.batch_size)
    for rows, nats, temperature in ((greedy, losses, None), (drawn, [None] * len(drawn), spec.temperature)):
        ended = _Ended(turn, asked, rows, nats, put)
        generate(
            model,
            [prompt_of(one) for one in rows],
            end_ids=turn.end_ids,
            pad_id=turn.tokenizer.pad_token_id,
            max_new_tokens=spec.max_new_tokens,
            batch_size=spec.batch_size,
            temperature=temperature,
            seeds=[seed_of(spec.seed, question.benchmark, question.problem_id, sample) for question, _, sample in rows],
            adapters=adapters_of(asked, rows),
            ended=ended.add,
        )
        ended.flush()


@dataclass
class _Ended:
    """Answers that have ended and are not on disk yet. ``losses``: of each of ``wanted``."""

    turn: Turn
    asked: Sequence[Asked]
    wanted: Sequence[Wanted]
    losses: Sequence[float | None]
    put: Put
    held: list[tuple[int, Generated]] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)

    def add(self, place: int, answer: Generated) -> None:
        self.held.append((place, answer))
        if len(self.held) >= KEPT or time.monotonic() > self.since + KEPT_SECONDS:
            self.flush()

    def flush(self) -> None:
        places, answers = [place for place, _ in self.held], [answer for _, answer in self.held]
        texts, reasons = [self.turn.text(one.ids) for one in answers], [one.finish_reason for one in answers]
        losses = [self.losses[place] for place in places]
        if places:
            self.put(list(graded(self.asked, [self.wanted[place] for place in places], texts, reasons, losses)))
        self.held.clear()
        self.since = time.monotonic()


def rows_of(folder: Path, *, tell: bool = True) -> Iterator[dict[str, Any]]:
    """The answers in a model's folder. A line that is damaged or was left half written is skipped."""
    for file in sorted(folder.glob("*.jsonl")):
        yield from read_lines(file, tell=tell)


def collect(folder: Path, problems: pl.DataFrame, expected: int | None = None) -> pl.DataFrame:
    """One model's answers in the ITEMS schema, in the problems' order.

    Raises `StageError` where there are not ``expected`` of them: fewer would pass for a smaller benchmark.
    """
    items = checked(pl.DataFrame(list(rows_of(folder, tell=False)), schema=ITEMS), ITEMS, "items")
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
