"""One answer of one model to one problem, whichever engine gave it: its seed, its grade, its row, its place on disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.core.results import Progress, RunInfo, no_progress
from tasks.engines.journal import append_lines
from tasks.evaluation.questions import Question

SCORED = 64
"""Most reference solutions in one forward pass. It holds the activations and logits of every token at once: eight times
as many took 1.8 times as long on a CPU, whose caches they leave, and fill a GPU where the vocabulary is large."""

Wanted = tuple[Question, int, int]
"""A problem, the place of the model that is asked, and the number of the sample (0 is greedy)."""


@dataclass(frozen=True)
class Asked:
    """One model to ask: the base, with an adapter or bare, as it is asked in training or in the teacher's style."""

    info: RunInfo
    adapter: Path | None = None
    instructed: bool = False
    """Ask for the teacher's style (synthetic task only)."""


def prompt_of(wanted: Wanted) -> tuple[int, ...]:
    """The tokens that this model is asked with. Only what fits is wanted."""
    question, place, _ = wanted
    prompt = question.prompts[place]
    assert prompt is not None
    return prompt


def adapters_of(asked: Sequence[Asked], wanted: Sequence[Wanted]) -> list[str] | None:
    """For a model of `tasks.models.load.load_adapters`, each row's adapter; None where nobody has one."""
    from tasks.models.load import BARE

    if all(one.adapter is None for one in asked):
        return None
    return [BARE if asked[i].adapter is None else asked[i].info.run for _, i, _ in wanted]


def scored(
    model: Any,
    asked: Sequence[Asked],
    wanted: Sequence[Wanted],
    *,
    pad_id: int,
    batch_size: int,
    progress: Progress = no_progress,
) -> list[float]:
    """Nats of each one's reference solution given its prompt."""
    from tasks.models.score import sequence_nll

    return sequence_nll(
        model,
        [prompt_of(one) for one in wanted],
        [question.reference for question, _, _ in wanted],
        pad_id=pad_id,
        batch_size=min(batch_size, SCORED),
        adapters=adapters_of(asked, wanted),
        progress=progress,
    )


def graded(
    asked: Sequence[Asked],
    wanted: Sequence[Wanted],
    texts: Sequence[str],
    reasons: Sequence[str],
    losses: Sequence[float | None],
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(model asked, ITEMS row) of each answer; ``losses``: of the greedy ones."""
    from tasks.grading.grade import grade_many

    grades = grade_many(texts, [question.gold for question, _, _ in wanted])
    for (question, i, sample), text, reason, loss, grade in zip(wanted, texts, reasons, losses, grades, strict=True):
        yield (
            i,
            {
                **asdict(asked[i].info),
                "benchmark": question.benchmark,
                "problem_id": question.problem_id,
                "sample": sample,
                "completion": text,
                "prediction": grade.extracted,
                "gold": question.gold,
                "correct": grade.reward == 1.0,
                "finish_reason": reason,
                "answer_nll": loss if sample == 0 else None,
                "answer_tokens": len(question.reference) if sample == 0 else None,
            },
        )


def keep(rows: Iterable[tuple[int, dict[str, Any]]], partials: Sequence[Path], name: str) -> None:
    """Append each model's rows to the file ``name`` of its folder."""
    found: dict[int, list[dict[str, Any]]] = {}
    for i, row in rows:
        found.setdefault(i, []).append(row)
    for i, lines in found.items():
        append_lines(partials[i] / name, lines)
