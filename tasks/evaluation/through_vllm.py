"""The answers of an evaluation out of vLLM: the base and every adapter in one engine, side by side in its batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.results import LocalBase, Progress
from tasks.core.sections import EvaluationSpec
from tasks.engines.interface import Completion, Request, Sampling, seed_of
from tasks.engines.journal import read_lines
from tasks.evaluation.answers import Asked, Wanted, graded, keep, prompt_of, scored

if TYPE_CHECKING:
    from tasks.models.turn import Turn

GRADED = 64
"""Answers that are graded and written at once: what a kill can cost."""
KEPT = 1024
"""Reference solutions that are scored between two writes."""


def answer_all(
    base: LocalBase,
    turn: Turn,
    asked: Sequence[Asked],
    wanted: Sequence[Wanted],
    spec: EvaluationSpec,
    partials: Sequence[Path],
    file: str,
    progress: Progress,
) -> None:
    """Append the ITEMS row of every one of ``wanted`` to ``file`` in its model's folder of ``partials``.

    First transformers scores the reference solutions, in float32, and frees its memory, of which vLLM then takes most;
    then vLLM answers, the greedy ones first. Where it fails, what it had answered is kept, and so are the scores.
    """
    if not wanted:
        return
    greedy = [one for one in wanted if one[2] == 0]
    drawn = [one for one in wanted if one[2] > 0]
    losses = _losses(
        base.folder, asked, greedy, turn.tokenizer.pad_token_id, spec.batch_size, partials, f"{file}.losses"
    )
    texts = _Texts(asked, losses, lambda rows: keep(rows, partials, file))
    longest = max(len(prompt_of(one)) for one in wanted) + spec.max_new_tokens
    try:
        with _engine(base, asked, spec, longest) as engine:
            for rows, temperature in ((greedy, None), (drawn, spec.temperature)):
                numbers = {str(number): one for number, one in enumerate(rows)}

                def deliver(request: Request, completion: Completion, numbers: dict[str, Wanted] = numbers) -> None:
                    texts.add(numbers[request.id], completion)
                    progress(texts.count, len(wanted), "answers")

                engine.complete(
                    [_request(number, one, asked, spec) for number, one in numbers.items()],
                    Sampling(spec.max_new_tokens, temperature, end_ids=turn.end_ids),
                    deliver,
                )
    finally:
        texts.flush()


def _engine(base: LocalBase, asked: Sequence[Asked], spec: EvaluationSpec, longest: int) -> Any:
    from tasks.engines.vllm import VllmEngine

    adapters = {one.info.run: one.adapter for one in asked if one.adapter is not None}
    return VllmEngine(
        base.folder, adapters=adapters, batch_size=spec.batch_size, max_length=base.max_length, longest=longest
    )


def _request(number: str, one: Wanted, asked: Sequence[Asked], spec: EvaluationSpec) -> Request:
    question, i, sample = one
    seed = seed_of(spec.seed, question.benchmark, question.problem_id, sample)
    return Request(number, "", prompt_of(one), seed, asked[i].info.run if asked[i].adapter is not None else None)


def _losses(
    base: Path,
    asked: Sequence[Asked],
    greedy: Sequence[Wanted],
    pad_id: int,
    batch_size: int,
    partials: Sequence[Path],
    file: str,
) -> dict[int, float]:
    """Of each of ``greedy`` (by identity), and the GPU is free again when this returns.

    They are kept in ``file`` of the models' folders of ``partials``, some at a time; what is there is not done again.
    """
    kept = [
        {(row["benchmark"], row["problem_id"]): row["answer_nll"] for row in read_lines(folder / file, tell=False)}
        for folder in partials
    ]
    found = {id(one): kept[one[1]].get((one[0].benchmark, one[0].problem_id)) for one in greedy}
    missing = [one for one in greedy if found[id(one)] is None]
    if missing:
        for start, losses in _scored(base, asked, missing, pad_id, batch_size):
            part = missing[start : start + KEPT]
            found |= {id(one): loss for one, loss in zip(part, losses, strict=True)}
            keep(
                (
                    (i, {"benchmark": question.benchmark, "problem_id": question.problem_id, "answer_nll": loss})
                    for (question, i, _), loss in zip(part, losses, strict=True)
                ),
                partials,
                file,
            )
    return {name: loss for name, loss in found.items() if loss is not None}


def _scored(
    base: Path, asked: Sequence[Asked], missing: Sequence[Wanted], pad_id: int, batch_size: int
) -> Iterator[tuple[int, list[float]]]:
    """(first place, losses) of each `KEPT` of ``missing``; the model is gone after the last."""
    import gc

    import torch

    from tasks.models.load import load_adapters

    model = load_adapters(base, {one.info.run: one.adapter for one in asked if one.adapter is not None})
    for start in range(0, len(missing), KEPT):
        yield start, scored(model, asked, missing[start : start + KEPT], pad_id=pad_id, batch_size=batch_size)
    del model
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class _Texts:
    """Answers on their way to being graded and kept, some at a time."""

    def __init__(
        self,
        asked: Sequence[Asked],
        losses: dict[int, float],
        keep: Callable[[Iterable[tuple[int, dict[str, Any]]]], None],
    ) -> None:
        self._asked, self._losses, self._keep = asked, losses, keep
        self._waiting: list[tuple[Wanted, Completion]] = []
        self.count = 0

    def add(self, one: Wanted, completion: Completion) -> None:
        self.count += 1
        self._waiting.append((one, completion))
        if len(self._waiting) >= GRADED:
            self.flush()

    def flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._keep(
            graded(
                self._asked,
                [one for one, _ in waiting],
                [completion.text for _, completion in waiting],
                [completion.finish_reason for _, completion in waiting],
                [self._losses.get(id(one)) for one, _ in waiting],
            )
        )
