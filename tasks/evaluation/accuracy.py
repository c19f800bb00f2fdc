"""Accuracy tables from graded answers: one row a run and benchmark, and one row a pair of runs and benchmark."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import polars as pl

from tasks.contracts import ACCURACY, ITEMS, MCNEMAR, InputError, checked
from tasks.evaluation.intervals import holm, wilson
from tasks.evaluation.mcnemar import mcnemar

_ANSWER = ["benchmark", "problem_id", "sample"]


def accuracy_table(items: pl.DataFrame) -> pl.DataFrame:
    """ACCURACY frame from ITEMS: benchmarks and runs in order of appearance, the base first.

    The interval is Wilson's at 95 % over the ``n`` answers: right for one answer a problem. ``answer_loss`` is the
    token-weighted mean over the reference solutions that were scored. Raises `InputError` for an answer that was not
    graded or that appears twice.
    """
    items = _clean(items)
    known = pl.col("answer_nll").is_not_null() & pl.col("answer_tokens").is_not_null()
    tokens = pl.col("answer_tokens").filter(known).sum()
    table = items.group_by("benchmark", "run", maintain_order=True).agg(
        *(pl.col(name).first() for name in ("method", "seed", "data_seed", "lr")),
        n=pl.len(),
        correct=pl.col("correct").sum(),
        accuracy=pl.col("correct").mean(),
        unparsed=pl.col("prediction").is_null().sum(),
        truncated=(pl.col("finish_reason") == "length").sum(),
        answer_loss=pl.when(tokens > 0).then(pl.col("answer_nll").filter(known).sum() / tokens),
    )
    bounds = [wilson(correct, n) for correct, n in table.select("correct", "n").iter_rows()]
    low, high = (pl.Series([bound[i] for bound in bounds], dtype=pl.Float64()) for i in range(2))
    return checked(table.with_columns(low=low, high=high), ACCURACY, "accuracy")


def mcnemar_table(items: pl.DataFrame) -> pl.DataFrame:
    """MCNEMAR frame from ITEMS: every pair of runs on every benchmark, the base first and always a.

    Answers are matched on (problem_id, sample); those that only one run gave are left out, ``n`` counts the rest.
    Holm's correction is over all pairs of one benchmark. Raises `InputError` as `accuracy_table` does, and when two
    runs share no answer on a benchmark.
    """
    items = _clean(items)
    rows = []
    for (benchmark,), group in items.group_by("benchmark", maintain_order=True):
        runs = group["run"].unique(maintain_order=True).to_list()
        wide = group.pivot("run", index=["problem_id", "sample"], values="correct")
        pairs = [_compare(wide, str(benchmark), a, b) for a, b in combinations(runs, 2)]
        adjusted = holm([pair["p_value"] for pair in pairs])
        rows += [{**pair, "p_holm": float(p)} for pair, p in zip(pairs, adjusted, strict=True)]
    return checked(pl.DataFrame(rows, schema=MCNEMAR), MCNEMAR, "mcnemar")


def _compare(wide: pl.DataFrame, benchmark: str, run_a: str, run_b: str) -> dict[str, str | int | float]:
    both = pl.DataFrame({"a": wide[run_a], "b": wide[run_b]}).drop_nulls()
    if both.is_empty():
        raise InputError(
            f"items: runs {run_a} and {run_b} share no answer on {benchmark}; evaluate both on the same problems"
        )
    a, b = both["a"].to_numpy(), both["b"].to_numpy()
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    return {
        "benchmark": benchmark,
        "run_a": run_a,
        "run_b": run_b,
        "n": len(both),
        "only_a": only_a,
        "only_b": only_b,
        "both": int(np.sum(a & b)),
        "neither": int(np.sum(~a & ~b)),
        "difference": (only_a - only_b) / len(both),
        "p_value": mcnemar(only_a, only_b).p_value,
    }


def _clean(items: pl.DataFrame) -> pl.DataFrame:
    """Checked ITEMS: benchmarks in order of appearance, within each the base's answers first."""
    items = checked(items, ITEMS, "items")
    if items.is_empty():
        raise InputError("items: no answers in it; evaluate at least one run")
    ungraded = items.filter(pl.col("correct").is_null())
    if not ungraded.is_empty():
        run, problem = ungraded.select("run", "problem_id").row(0)
        raise InputError(f"items: correct is null for run {run}, problem {problem}; grade every answer")
    twice = items.filter(items.select("run", *_ANSWER).is_duplicated())
    if not twice.is_empty():
        run, benchmark, problem, sample = twice.select("run", *_ANSWER).row(0)
        raise InputError(f"items: run {run} answers {benchmark} problem {problem}, sample {sample} more than once")
    order = {name: place for place, name in enumerate(items["benchmark"].unique(maintain_order=True))}
    return items.sort(
        pl.col("benchmark").replace_strict(order, return_dtype=pl.Int64()),
        pl.col("method") != "base",
        maintain_order=True,
    )
