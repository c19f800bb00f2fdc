"""A base model with the problems of the paths, read whatever its weights now are. Runs in a worker process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from tasks.core.errors import InputError
from tasks.core.frames import checked
from tasks.core.results import LocalBase
from tasks.geometry.connectivity import ENDS
from tasks.geometry.paths.chosen import Chosen, choose

if TYPE_CHECKING:
    from tasks.models.turn import Turn

SCORED_AT_ONCE = {"cpu": 16}
"""Most texts of one forward pass: on a core, small batches in order of length pad less and stay in its cache. The 64
problems of the default study took 0.21 s in one batch, 0.14 s in batches of 16 (both cross-entropies)."""

Row = tuple[str, str, float, int | None]
"""A row of ENDS."""


@dataclass(frozen=True, eq=False)
class Meter:
    """A base model (`tasks.models.load.load_read`) and its problems, tokenised once."""

    model: Any
    turn: Turn
    chosen: Chosen
    batch_size: int
    max_new_tokens: int

    @property
    def summary(self) -> dict[str, Any]:
        """What a reader must know of the problems."""
        unknown, problems = self.turn.tokenizer.unk_token_id, self.chosen.problems
        return {
            "problems": len(problems),
            "split": self.chosen.split,
            "solutions": sum(problem.solution is not None for problem in problems),
            "too_long": self.chosen.too_long,
            "boxes_with_unknown_tokens": sum(unknown in problem.boxed for problem in problems),
        }

    def read(self, readings: Sequence[str]) -> list[Row]:
        """Rows of ENDS, reading by reading."""
        return [row for one in readings for row in (self._answers() if one == "accuracy" else self._nll(one))]

    def known(self, file: Path, readings: Sequence[str]) -> list[Row]:
        """The rows of an ``ends.parquet``. Raises `InputError` where they are not of these problems and readings."""
        frame = checked(pl.read_parquet(file), ENDS, "ends").filter(pl.col("reading").is_in(readings))
        rows: list[Row] = list(frame.iter_rows())
        expected = {
            (problem.problem_id, one)
            for one in readings
            for problem in self.chosen.problems
            if one != "solution" or problem.solution is not None
        }
        if {row[:2] for row in rows} != expected:
            raise InputError(f"{file}: not of these problems and readings; measure the ends with the path's settings")
        return rows

    def _nll(self, reading: str) -> list[Row]:
        from tasks.models.score import sequence_nll

        texts = [(p.problem_id, p.prompt, p.boxed if reading == "boxed" else p.solution) for p in self.chosen.problems]
        have = [(name, prompt, target) for name, prompt, target in texts if target is not None]
        values = sequence_nll(
            self.model,
            [prompt for _, prompt, _ in have],
            [target for _, _, target in have],
            pad_id=self.turn.tokenizer.pad_token_id,
            batch_size=min(self.batch_size, SCORED_AT_ONCE.get(self.model.device.type, self.batch_size)),
        )
        return [(name, reading, nats, len(t)) for (name, _, t), nats in zip(have, values, strict=True)]

    def _answers(self) -> list[Row]:
        from tasks.grading.grade import grade_many
        from tasks.models.generate import generate

        answers = generate(
            self.model,
            [problem.prompt for problem in self.chosen.problems],
            end_ids=self.turn.end_ids,
            pad_id=self.turn.tokenizer.pad_token_id,
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
        )
        texts = [self.turn.text(answer.ids) for answer in answers]
        grades = grade_many(texts, [problem.gold for problem in self.chosen.problems])
        return [
            (problem.problem_id, "accuracy", grade.reward, None)
            for problem, grade in zip(self.chosen.problems, grades, strict=True)
        ]


def open_meter(
    base: LocalBase, problems: Path, n: int, readings: Sequence[str], batch_size: int, max_new_tokens: int, seed: int
) -> Meter:
    """Load the base and `choose` the problems: the same whatever the readings, so every pair has the same.

    Each process does this once, for all points of its path: 0.2 s at the default study's size, a twentieth of a path.
    Raises `InputError` as `choose` does. Readings are those of `tasks.core.sections.PathSpec`.
    """
    from tasks.models.load import load_read
    from tasks.models.turn import turn_at

    turn = turn_at(base)
    chosen = choose(turn, base.folder, problems, n, max_new_tokens, base.max_length, seed)
    return Meter(load_read(base.folder), turn, chosen, batch_size, max_new_tokens)
