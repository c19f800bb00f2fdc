"""Rollouts that somebody else made: a file or shards in one of the layouts of `tasks.rollouts.layouts`."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from tasks.core.errors import InputError
from tasks.core.rows import Row, name_of, read_rows, show
from tasks.models.prompts import MARKS, adds_nothing
from tasks.rollouts.layouts import Reading, completions

ROLLOUT_FILE: dict[str, pl.DataType] = {
    "problem_id": pl.String(),
    "rollout_id": pl.Int64(),  # 0..K-1 within a problem, in the file's order
    "prompt": pl.String(),  # the question, without any template
    "completion": pl.String(),
    "answer": pl.String(),  # bare reference answer; null where only rewards are given
    "reward": pl.Float64(),  # 0.0 or 1.0 as given; null where the file gives none
    "logprobs": pl.List(pl.Float64()),  # one a completion token; null where not given
    "finish_reason": pl.String(),  # "stop" or "length"
    "seed": pl.Int64(),
}
"""What `read_rollouts` returns: rollouts before any template or tokeniser saw them."""


def marks_of(prompt_template: str | None, tokens: Collection[str] = ()) -> Collection[str]:
    """What no prompt may hold, for it would be rendered twice: chat templates' tokens and the tokenizer's own.

    Nothing where ``prompt_template`` adds nothing: then every prompt is taken as it is.
    """
    return () if adds_nothing(prompt_template) else (*MARKS, *tokens)


def read_rollouts(
    path: Path | str, fields: Mapping[str, str] | None = None, control: Collection[str] = MARKS
) -> pl.DataFrame:
    """The rollouts in a file or a folder of shards (`tasks.core.rows.read_rows`), as columns `ROLLOUT_FILE`.

    ``fields``: role -> column (`tasks.rollouts.layouts.FIELDS`), where the usual names do not say which is which.
    ``control``: tokens that no prompt may hold (`marks_of`).

    Prompts and completions are returned exactly as they are in the file (an empty completion is legal). ``rollout_id``
    counts 0..K-1 in the file's order within a problem; a missing ``problem_id`` is derived from the prompt. A problem's
    reference answer goes to all of its rows.

    Raises `InputError`, one line with file, line (or row of a parquet file), field, expectation and way out, for: a
    missing, empty or unreadable file, another suffix, invalid UTF-8 or JSON, a row without question or completion or
    with neither reward nor reference answer, two columns that could have one role and differ, a prompt that is a
    rendered chat template, a reward other than 0 or 1, log-probabilities that are not finite numbers, and one
    problem_id with two questions or two reference answers.
    """
    return read_into(Reading(fields, control), Path(path))


def read_into(reading: Reading, path: Path) -> pl.DataFrame:
    """As `read_rollouts`; ``reading`` then knows which columns were read as what."""
    prompts: dict[str, tuple[str, str]] = {}
    golds: dict[str, tuple[str, str]] = {}
    seen: Counter[str] = Counter()
    records: list[dict[str, Any]] = []
    for row in read_rows(path, skip=("prompt_ids", "completion_ids")):  # tokens of another model
        for record in completions(row, reading):
            problem = record["problem_id"]
            _same(row, "prompt", record["prompt"], problem, prompts)
            if record["answer"] is not None:
                _same(row, "answer", record["answer"], problem, golds)
            record["rollout_id"] = seen[problem]
            seen[problem] += 1
            records.append(record)
    if not records:
        raise InputError(
            f"{name_of(path)}: expected at least one rollout, got an empty file; write one row a completion"
        )
    reading.check(name_of(path))
    for record in records:
        record["answer"] = golds.get(record["problem_id"], (None, ""))[0]
    return pl.DataFrame(records, schema=ROLLOUT_FILE)


def describe(frame: pl.DataFrame) -> dict[str, int | float | None]:
    """Counts of a frame of `read_rollouts`: what the study tells about the file before it starts.

    ``correct_share`` is over the rows with a given reward (None where there are none); a group is mixed when its given
    rewards contain both 0 and 1. ``k_min`` and ``k_max``: fewest and most completions of a problem.
    """
    sizes = frame.group_by("problem_id").agg(
        pl.len().alias("k"), pl.col("reward").drop_nulls().n_unique().alias("rewards")
    )
    given = frame["reward"].drop_nulls()
    return {
        "problems": sizes.height,
        "rows": frame.height,
        "k_min": int(sizes["k"].to_numpy().min()) if sizes.height else 0,
        "k_max": int(sizes["k"].to_numpy().max()) if sizes.height else 0,
        "given_rewards": given.len(),
        "correct_share": float(given.to_numpy().mean()) if given.len() else None,
        "mixed_groups": int((sizes["rewards"] == 2).sum()),
        "empty_completions": int((frame["completion"] == "").sum()),
    }


def heldout_split(problem_ids: Iterable[str], share: float) -> set[str]:
    """The problems held out: the ``share`` with the smallest hash of their id, at least one where share > 0.

    Depends on the set of ids alone (not on order or repetition), and a larger share holds out a superset. One problem
    at least stays for training. Raises `InputError` for a share outside [0, 1) and for too few problems to split.
    """
    if not 0 <= share < 1:
        raise InputError(f"rollouts.holdout: expected a share from 0 to below 1, got {share}; 0 holds nothing out")
    ids = sorted(set(problem_ids), key=lambda name: (hashlib.sha256(b"heldout:" + name.encode()).digest(), name))
    if share == 0:
        return set()
    if len(ids) < 2:
        raise InputError(f"rollouts.holdout: {len(ids)} problem cannot be split; set it to 0 or bring more problems")
    return set(ids[: min(max(math.floor(share * len(ids) + 0.5), 1), len(ids) - 1)])


def _same(row: Row, field: str, value: str, problem: str, known: dict[str, tuple[str, str]]) -> None:
    """Refuse a problem_id that stands for two questions or two reference answers."""
    first, where = known.setdefault(problem, (value, row.where))
    if first != value:
        raise row.refuse(
            field,
            f"what problem_id {show(problem)} has in {where}, {show(first)}, got {show(value)}",
            "give different problems different `problem_id`s",
        )
