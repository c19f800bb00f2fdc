"""Which problems the paths, the hidden states and the divergences are measured on: one choice for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from tasks.core.errors import InputError
from tasks.core.frames import PROBLEMS, checked

if TYPE_CHECKING:
    from tasks.models.turn import Turn

HELDOUT = "heldout"
NOT_EVALUATED = ("dev", "rollouts")
"""Splits of a study's problems that have another use."""


@dataclass(frozen=True)
class Problem:
    """A problem in tokens."""

    problem_id: str
    gold: str
    prompt: list[int]
    boxed: list[int]
    r"""``\boxed{gold}``, not closed by the end token: what the paper scores right after the prompt."""
    solution: list[int] | None
    """Closed by the end token; None where no solution is known."""


@dataclass(frozen=True)
class Chosen:
    """The problems, and what a reader must know of the choice."""

    problems: Sequence[Problem]
    split: str
    too_long: int
    """Problems passed over because they do not fit the context."""


def choose(
    turn: Turn,
    base: Path,
    problems: Path,
    n: int,
    max_new_tokens: int,
    max_length: int | None,
    seed: int = 0,
) -> Chosen:
    """The first ``n`` that fit of one split of ``problems`` (PROBLEMS, parquet) in an order shuffled by ``seed``.

    The split is ``heldout``, or where there is none (a study judged by benchmarks alone) the first evaluated one. A
    problem fits where its prompt, and behind it an answer of ``max_new_tokens`` as well as its box and its solution,
    stay within ``max_length`` tokens (default: the model's context). The order of a split's rows does not matter, and
    the choice of a smaller ``n`` is the beginning of that of a larger one. Raises `InputError` for ``n`` below 1, and
    where none fits.
    """
    from tasks.models.load import context_length

    if n < 1:
        raise InputError(f"n: {n} problems asked for; need at least 1")
    limit = context_length(base, max_length)
    frame = checked(pl.read_parquet(problems), PROBLEMS, "problems").filter(~pl.col("split").is_in(NOT_EVALUATED))
    there = frame["split"].unique(maintain_order=True).to_list()
    split = HELDOUT if HELDOUT in there or not there else there[0]
    frame = frame.filter(split=split).sort("problem_id")
    fitting: list[Problem] = []
    too_long = 0
    for place in np.random.default_rng(seed).permutation(frame.height).tolist():
        if len(fitting) == n:
            break
        row = frame.row(place, named=True)
        prompt = turn.prompt(row["question"])
        boxed = turn.boxed(row["answer"], closed=False)
        solution = None if row["solution"] is None else turn.answer(row["solution"])
        # A box is closed where it stands for the solution: one token more.
        if not prompt or len(prompt) + max(max_new_tokens, len(boxed) + 1, len(solution or ())) > limit:
            too_long += 1
        else:
            fitting.append(Problem(row["problem_id"], row["answer"], prompt, boxed, solution))
    if not fitting:
        raise InputError(
            f"problems: none of the {frame.height} problems of {split} fits {limit} tokens with an answer of "
            f"{max_new_tokens}; give others (evaluation.problems), or lower evaluation.max_new_tokens"
        )
    return Chosen(fitting, split, too_long)
