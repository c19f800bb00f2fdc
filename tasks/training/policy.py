"""How likely the rollouts are to the base: how near they are to what it would write itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import log
from typing import Any

import polars as pl

from tasks.core.chance import student
from tasks.core.frames import ON_POLICY, checked

UNLIKELY = 0.1
"""Probability below which a token counts as one that the base would hardly write."""


def on_policy(graded: pl.DataFrame, scored: Iterable[tuple[Sequence[int], Any]]) -> pl.DataFrame:
    """ON_POLICY of the rows of ``graded`` from their log-probabilities, as `tasks.training.reference.scored` has them.

    Values are over all tokens of the rows. Their 95 % intervals are those of a ratio of sums over problems (Cochran
    1977, section 6.3; Student's t), since rollouts of one problem are alike; null for one problem.
    """
    prompts, completions = graded["prompt_ids"].list.len(), graded["completion_ids"].list.len()
    nll, unlikely = [0.0] * graded.height, [0] * graded.height
    for places, logprobs_BT in scored:
        for place, logprobs_T in zip(places, logprobs_BT, strict=True):
            own = logprobs_T[prompts[place] - 1 :][: completions[place]]
            nll[place] = -float(own.sum())
            unlikely[place] = int((own < log(UNLIKELY)).sum())
    rows = graded.select("problem_id", "reward").with_columns(
        tokens=completions, nll=pl.Series(nll, dtype=pl.Float64), unlikely=pl.Series(unlikely, dtype=pl.Float64)
    )
    parts = {"all": rows, "right": rows.filter(reward=1.0), "wrong": rows.filter(reward=0.0)}
    found = [
        {"answers": name, "rows": part.height, "tokens": part["tokens"].sum()}
        | _ratio(part, "nll") | _ratio(part, "unlikely")
        for name, part in parts.items()
        if part.height
    ]  # fmt: skip
    return checked(pl.DataFrame(found, schema=ON_POLICY), ON_POLICY, "on_policy")


def _ratio(rows: pl.DataFrame, column: str) -> dict[str, float | None]:
    """``column`` by the tokens, and its interval."""
    sums = rows.group_by("problem_id").agg(pl.col("tokens", column).sum())
    n, tokens = sums.height, float(sums["tokens"].sum())
    value = float(sums[column].sum()) / tokens
    if n < 2:
        return {column: value, f"{column}_low": None, f"{column}_high": None}
    off = sums[column] - value * sums["tokens"]
    half = float(student(n - 1)) * (n / (n - 1) * float((off * off).sum())) ** 0.5 / tokens
    return {column: value, f"{column}_low": max(0.0, value - half), f"{column}_high": value + half}
