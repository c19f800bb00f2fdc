"""What each direction of an update carries: the graded answers of its truncations beside the base's and the whole's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from tasks.core.errors import InputError
from tasks.core.frames import DIVERGENCE, LEADING, TRUNCATION, checked
from tasks.core.results import RunInfo, Truncated
from tasks.evaluation.accuracy import accuracy_table
from tasks.evaluation.intervals import paired_interval


def truncation_frame(
    parts: Sequence[Truncated], rank: int, items: pl.DataFrame, divergence: pl.DataFrame, base: str = "base"
) -> pl.DataFrame:
    """TRUNCATION of ``parts`` from the answers (ITEMS) of ``base``, of every run that they are of, and of themselves.

    ``rank``: of the whole updates. ``divergence`` (DIVERGENCE) may lack any of them, whose divergence is null. Raises
    `InputError` where answers are missing.
    """
    whole = list(dict.fromkeys(one.of for one in parts))
    rows = [
        *((of, name, LEADING, k) for of in whole for name, k in ((base, 0), (of.run, rank))),
        *((one.of, one.info.run, one.part, one.k) for one in parts),
    ]
    rows.sort(key=lambda row: (whole.index(row[0]), *row[2:]))
    used = pl.col("run").is_in([name for _, name, *_ in rows])
    items = items.filter(used, pl.col("sample") == 0)
    scores = {(row["benchmark"], row["run"]): row for row in accuracy_table(items).iter_rows(named=True)}
    known = checked(divergence, DIVERGENCE, "divergence").filter(pl.col("run_a") == base)
    far = {run: tuple(rest) for run, *rest in known.select("run_b", "value", "low", "high").iter_rows()}
    if far:
        far[base] = (0.0, 0.0, 0.0)
    right = {
        (benchmark, run): dict(group.select("problem_id", "correct").iter_rows())
        for (benchmark, run), group in items.group_by("benchmark", "run")
    }
    found = []
    for benchmark in items["benchmark"].unique(maintain_order=True):
        for of, name, part, k in rows:
            if (benchmark, name) not in scores:
                raise InputError(f"items: no answer of {name} to {benchmark}; evaluate it too")
            score = scores[benchmark, name]
            kl = dict(zip(("kl", "kl_low", "kl_high"), far.get(name, (None, None, None)), strict=True))
            more = _difference(right[benchmark, name], right[benchmark, of.run])
            numbers = {column: score[column] for column in ("n", "correct", "accuracy", "low", "high")}
            place = {"benchmark": benchmark, "part": part, "k": k, "loss": score["answer_loss"]}
            found.append({**_identity(of), **place, **numbers, **kl, **more})
    return checked(pl.DataFrame(found, schema=TRUNCATION), TRUNCATION, "truncation")


def _identity(info: RunInfo) -> dict[str, Any]:
    return {name: getattr(info, name) for name in ("run", "method", "seed", "data_seed", "lr")}


def _difference(own: dict[str, bool], whole: dict[str, bool]) -> dict[str, float]:
    """Accuracy less that of ``whole`` on the problems that both answered, with its 95 % interval."""
    both = own.keys() & whole.keys()
    gained, lost = (sum(a[one] and not b[one] for one in both) for a, b in ((own, whole), (whole, own)))
    low, high = paired_interval(gained, lost, len(both))
    return {"difference": (gained - lost) / len(both), "difference_low": low, "difference_high": high}
