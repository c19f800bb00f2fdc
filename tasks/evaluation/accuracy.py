"""Accuracy tables from graded answers: one row a run and benchmark, and one row a pair of runs and benchmark.

Sample 0 of a problem is the greedy answer, samples 1, 2, ... are drawn at a temperature (`tasks.evaluation.samples`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasks.core.errors import InputError
from tasks.core.frames import ACCURACY, ITEMS, MCNEMAR, checked
from tasks.core.results import LEVEL, REFERENCE_METHODS
from tasks.evaluation.intervals import holm, paired_interval, share_interval, wilson
from tasks.evaluation.mcnemar import mcnemar
from tasks.evaluation.power import detectable_difference, verdict
from tasks.evaluation.replicates import TrainingSpread, method_interval, training_spread
from tasks.methods import FROM_TEACHER

_ANSWER = ["benchmark", "problem_id", "sample"]


def accuracy_table(items: pl.DataFrame, seed: int = 0) -> pl.DataFrame:
    """ACCURACY frame from ITEMS: benchmarks and runs in order of appearance, the base first.

    Only the greedy answers count, where a run has them: the share right with Wilson's 95 % interval. Of a run that has
    only drawn answers on a benchmark, all of those count: the mean over problems of the share right, each problem
    counting the same, with a bootstrap over problems where there are several a problem (`share_interval`, with
    ``seed``), because samples of one problem are no independent answers. ``answer_loss`` is the token-weighted mean
    over the reference solutions that were scored. Raises `InputError` for an answer that was not graded or that
    appears twice.
    """
    first = pl.col("sample") == 0
    items = checked_items(items).filter(first | ~first.any().over("benchmark", "run"))
    known = pl.col("answer_nll").is_not_null() & pl.col("answer_tokens").is_not_null()
    tokens = pl.col("answer_tokens").filter(known).sum()
    table = items.group_by("benchmark", "run", maintain_order=True).agg(
        *(pl.col(name).first() for name in ("method", "seed", "data_seed", "lr")),
        n=pl.len(),
        correct=pl.col("correct").sum(),
        unparsed=pl.col("prediction").is_null().sum(),
        truncated=(pl.col("finish_reason") == "length").sum(),
        answer_loss=pl.when(tokens > 0).then(pl.col("answer_nll").filter(known).sum() / tokens),
    )
    scores = items.group_by("benchmark", "run", "problem_id", maintain_order=True).agg(score=pl.col("correct").mean())
    shares = scores.group_by("benchmark", "run", maintain_order=True).agg(scores="score")
    table = table.join(shares, on=["benchmark", "run"], how="left", maintain_order="left")
    found = [_share(row, seed) for row in table.select("scores", "n", "correct").iter_rows(named=True)]
    intervals = pl.DataFrame(found, schema=["accuracy", "low", "high"], orient="row")
    return checked(pl.concat([table.drop("scores"), intervals], how="horizontal"), ACCURACY, "accuracy")


def _share(row: dict[str, Any], seed: int) -> tuple[float, float, float]:
    """(accuracy, low, high) of one run on one benchmark."""
    if len(row["scores"]) == row["n"]:
        return (row["correct"] / row["n"], *wilson(row["correct"], row["n"]))
    found = share_interval(row["scores"], seed=seed)
    return found.estimate, found.low, found.high


def mcnemar_table(items: pl.DataFrame) -> pl.DataFrame:
    """MCNEMAR frame from ITEMS: every pair of runs on every benchmark, the base first and always a.

    Only the greedy answers (sample 0) are used: the test needs independent pairs, and samples of one problem are not.
    Drawn answers are compared by `tasks.evaluation.samples.differences_table`. Problems that only one run answered are
    left out, ``n`` counts the rest.

    Families (`families`) are the questions that are asked; Holm's correction is within one, on one benchmark. So a
    replicate, a teacher or another base that is evaluated too changes nothing about the other pairs. ``detectable`` is
    `detectable_difference` at level .05 / m, the strictest of Holm's steps in a family of m pairs. Pairs of no family
    are judged by their own p. Raises `InputError` as `accuracy_table` does, for a run without a greedy answer on a
    benchmark that it has answers to, and when two runs share no answer on a benchmark.
    """
    items = checked_items(items)
    rows = []
    for (benchmark,), group in items.group_by("benchmark", maintain_order=True):
        known = group.unique("run", maintain_order=True).select("run", "method", "lr").rows()
        wide = group.filter(pl.col("sample") == 0).pivot("run", index="problem_id", values="correct")
        if absent := [run for run, *_ in known if run not in wide.columns]:
            raise InputError(
                f"items: run {absent[0]} has no greedy answer (sample 0) on {benchmark}; evaluate it greedily too"
            )
        family = families(known)
        spread = training_spread(_replicates(wide, known))
        trained = {run for run, method, _ in known if method not in REFERENCE_METHODS}
        names = [run for run, *_ in known]
        pairs = [
            _compare(wide, str(benchmark), a, b) | {"family": family.get((a, b))} for a, b in combinations(names, 2)
        ]
        for name in ("base", "methods"):
            own = [pair for pair in pairs if pair["family"] == name]
            for pair, p in zip(own, holm([pair["p_value"] for pair in own]), strict=True):
                pair.update(p_holm=float(p), pairs=len(own))
        rows += [_judged(pair, len({pair["run_a"], pair["run_b"]} & trained), spread) for pair in pairs]
    return checked(pl.DataFrame(rows, schema=MCNEMAR), MCNEMAR, "mcnemar")


def families(runs: Sequence[tuple[str, str, float | None]]) -> dict[tuple[str, str], str]:
    """(run_a, run_b) -> "base" or "methods", for (run, method, learning rate) in order, the base first.

    "base": the main run of each method against the base; "methods": pairs of main runs. A main run is the first of its
    method and learning rate, so a method at another learning rate is a run of its own. Replicates (its further runs),
    what no study trains, but for the base, and methods that do not learn from the rollouts alone
    (`tasks.methods.common.Method.from_teacher`) are in no family.
    """
    base = [run for run, method, _ in runs if method == "base"]
    main: dict[tuple[str, float | None], str] = {}
    for run, method, lr in runs:
        if method not in (*REFERENCE_METHODS, *FROM_TEACHER):
            main.setdefault((method, lr), run)
    against = {(one, run): "base" for one in base[:1] for run in main.values()}
    return against | {pair: "methods" for pair in combinations(main.values(), 2)}


def _replicates(wide: pl.DataFrame, known: Sequence[tuple[str, str, float | None]]) -> list[NDArray[np.bool_]]:
    """Answers (runs, problems) of each method and learning rate with several runs, where all of them answered."""
    groups: dict[tuple[str, float | None], list[str]] = {}
    for run, method, lr in known:
        if method not in REFERENCE_METHODS:
            groups.setdefault((method, lr), []).append(run)
    found = [wide.select(runs).drop_nulls().to_numpy().T for runs in groups.values() if len(runs) > 1]
    return [group for group in found if group.shape[1] > 1]


def _judged(pair: dict[str, Any], trained: int, spread: TrainingSpread | None) -> dict[str, Any]:
    """A pair with its intervals and verdict; ``pairs``, of its family, is taken out."""
    n, counts = pair["n"], (pair["only_a"], pair["only_b"])
    low, high = paired_interval(*counts, n)
    p_holm = pair.get("p_holm")
    found = {
        **{name: value for name, value in pair.items() if name != "pairs"},
        "low": low,
        "high": high,
        "p_holm": p_holm,
        "detectable": detectable_difference(n, sum(counts) / n, alpha=LEVEL / pair.get("pairs", 1)),
        "verdict": verdict(pair["p_value"] if p_holm is None else p_holm, low, high),
    }
    if spread is None or not trained:
        return found
    ends = method_interval(*counts, n, trained, spread)
    return found | dict(repeats=spread.df, training_sd=spread.own**0.5, method_low=ends[0], method_high=ends[1])


def _compare(wide: pl.DataFrame, benchmark: str, run_a: str, run_b: str) -> dict[str, Any]:
    both = pl.DataFrame({"a": wide[run_a], "b": wide[run_b]}).drop_nulls()
    if both.is_empty():
        raise InputError(
            f"items: runs {run_a} and {run_b} share no answer on {benchmark}; evaluate both on the same problems"
        )
    a, b = both["a"].to_numpy(), both["b"].to_numpy()
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    test = mcnemar(only_a, only_b)
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
        "p_value": test.p_value,
        "p_mid": test.p_mid,
    }


def checked_items(items: pl.DataFrame) -> pl.DataFrame:
    """ITEMS that tables may be made of: benchmarks in order of appearance, within each the base's answers first.

    `InputError` for a frame of another schema or without rows, an answer that was not graded, one that appears twice.
    """
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
