"""What is asked: a study's held-out problems as token ids, and which of them fit the model's context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from tasks.core.errors import InputError
from tasks.core.frames import PROBLEMS, checked
from tasks.core.sections import EvaluationSpec

if TYPE_CHECKING:
    from tasks.models.turn import Turn

NOT_EVALUATED = ("dev", "rollouts")
"""Splits of a study's problems that have another use."""


@dataclass(frozen=True)
class Question:
    """One problem; ``prompts``: one a model asked, None where that prompt and an answer do not fit."""

    benchmark: str
    problem_id: str
    gold: str
    prompts: tuple[tuple[int, ...] | None, ...]
    reference: tuple[int, ...]

    @property
    def longest(self) -> int:
        """Tokens of its longest prompt."""
        return max(len(prompt) for prompt in self.prompts if prompt is not None)


def evaluated(problems: Path) -> pl.DataFrame:
    """The problems that models are asked, in their order (PROBLEMS)."""
    frame = checked(pl.read_parquet(problems), PROBLEMS, "problems")
    return frame.filter(~pl.col("split").is_in(NOT_EVALUATED))


def read_questions(
    base: Path,
    instructed: Sequence[bool],
    problems: Path,
    spec: EvaluationSpec,
    turn: Turn,
    max_length: int | None,
) -> tuple[list[Question], list[int]]:
    """The problems that fit, shortest prompt first, and for each model asked the number of those that do not.

    ``instructed``: for each model, whether it is asked in the teacher's style. Whether a problem fits is decided model
    by model, by its own prompt: what it is asked does not depend on who else is. A problem that fits nobody is left
    out. Raises `InputError` where nothing fits one of the models.
    """
    from tasks.models.load import context_length
    from tasks.problems.synthetic import instruct

    limit = context_length(base, max_length)
    frame = evaluated(problems)
    fitting: list[Question] = []
    for benchmark, problem_id, asked, gold, solution in frame.select(
        "split", "problem_id", "question", "answer", "solution"
    ).iter_rows():
        known = solution is not None
        reference = tuple(turn.answer(solution) if known else turn.boxed(gold))
        room = limit - max(spec.max_new_tokens, len(reference))
        styles: dict[bool, tuple[int, ...] | None] = {}
        for style in set(instructed):
            ids = tuple(turn.prompt(instruct(asked) if style else asked))
            styles[style] = ids if 0 < len(ids) <= room else None  # nothing to begin with: no answer either
        if any(ids is not None for ids in styles.values()):
            prompts = tuple(styles[style] for style in instructed)
            fitting.append(Question(benchmark, problem_id, gold, prompts, reference))
    asked_of = [sum(question.prompts[i] is not None for question in fitting) for i in range(len(instructed))]
    if 0 in asked_of:
        raise InputError(
            f"evaluation.max_new_tokens: no problem fits: with {spec.max_new_tokens} tokens to answer, every prompt is "
            f"beyond the model's {limit}; lower it"
        )
    return sorted(fitting, key=lambda question: question.longest), [frame.height - count for count in asked_of]
