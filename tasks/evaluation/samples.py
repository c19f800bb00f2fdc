"""Drawn answers, several a problem: avg@k, pass@k and maj@k with their intervals, and the runs' differences in avg@k.

Sample 0 of a problem is its greedy answer and not drawn: it is left out here. All three metrics are what k samples give
on average over every choice of k from the n samples that a problem has (each choice equally likely, without
replacement): unbiased, and with less noise than the first k alone. So avg@k is the share of samples right for every k,
and at k = 1 all three are equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from itertools import combinations
from math import comb, prod
from typing import Any

import numpy as np
import polars as pl

from tasks.core.errors import InputError
from tasks.core.frames import DIFFERENCES, SAMPLES, checked
from tasks.core.sections import MOST_SAMPLES
from tasks.evaluation.accuracy import checked_items
from tasks.evaluation.intervals import paired_bootstrap, share_interval

_RIGHT = -1
"""The vote of every right answer; those of wrong ones count from 0."""


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Probability that at least one of k samples is right: ``1 - C(n - c, k) / C(n, k)``, c of n samples being right.

    Chen et al. 2021 (arXiv 2107.03374), equation 1, as their product ``1 - prod_i (1 - k / i)`` over i = n-c+1..n,
    which neither overflows nor cancels. `InputError` unless ``0 <= c <= n`` and ``1 <= k <= n``.
    """
    if not 0 <= correct <= n:
        raise InputError(f"correct is {correct} of n = {n} samples; need 0 <= correct <= n")
    _check_k(k, n)
    if n - correct < k:
        return 1.0
    return 1.0 - prod(1.0 - k / i for i in range(n - correct + 1, n + 1))


def maj_at_k(counts: Sequence[int], right: Sequence[float], unparsed: int, k: int) -> float:
    """Probability that the majority vote of k samples is right (Wang et al. 2022, arXiv 2203.11171, unweighted).

    ``counts`` are how often each distinct answer was given, ``right`` whether it is (1 or 0), ``unparsed`` how many
    samples have no answer: they may be drawn, but do not vote; k samples without a vote are wrong. Answers that tie
    for the most votes share the win equally (one of them is picked at random). Exact: no draws, no first k.
    `InputError` for counts below 1, unequal lengths, ``k < 1`` and k larger than the samples.
    """
    if len(counts) != len(right) or min(counts, default=1) < 1 or unparsed < 0:
        raise InputError(
            f"counts {list(counts)}, right {list(right)}, unparsed {unparsed}: need one of each, counts >= 1"
        )
    n = sum(counts) + unparsed
    _check_k(k, n)
    if n > MOST_SAMPLES:
        raise InputError(f"a problem has {n} samples; maj@k is computed for at most {MOST_SAMPLES}: keep fewer")
    chances = 0.0
    for place, share in enumerate(right):
        if share:
            others = tuple(sorted((*counts[:place], *counts[place + 1 :]), reverse=True))
            chances += share * _win(counts[place], others, unparsed, k)
    return min(1.0, chances)


def samples_table(items: pl.DataFrame, ks: Sequence[int] | None = None, seed: int = 0) -> pl.DataFrame:
    """SAMPLES frame from ITEMS: avg@k, pass@k and maj@k of every run with drawn answers, the base first.

    ``ks`` None: all samples that every problem of the benchmark has (the fewest where they differ); no rows where
    nothing was drawn. Votes are for answers, not for texts: "0.5" and "1/2" are one candidate (`_with_votes`); a tie is
    shared (`maj_at_k`). Values are means over problems, intervals `share_interval` over problems drawn with ``seed``.
    `InputError` as `checked_items`, and for k below 1 or larger than the samples of a problem.
    """
    drawn = checked_items(items).filter(pl.col("sample") > 0)
    if ks and drawn.is_empty():
        raise InputError(
            f"k is {max(ks)}, but items holds no drawn answers (samples 1, 2, ...); raise evaluation.samples"
        )
    rows: list[dict[str, Any]] = []
    for (benchmark,), group in drawn.group_by("benchmark", maintain_order=True):
        problems = _problems(_with_votes(group))
        wanted = [int(problems["samples"].min())] if ks is None else sorted(set(ks))  # type: ignore[arg-type]
        _check_ks(problems, str(benchmark), wanted)
        for (run,), own in problems.group_by("run", maintain_order=True):
            interval_of = lru_cache(
                partial(share_interval, seed=seed)
            )  # avg@k is one at every k, at k = 1 all three are
            about = {"run": run, "benchmark": benchmark, "n": own.height, "samples": own["samples"].min()}
            for k in wanted:
                for metric, scores in _scores(own, k).items():
                    found = interval_of(scores)
                    value = {"value": found.estimate, "low": found.low, "high": found.high}
                    rows.append({**about, "metric": metric, "k": k, **value})
    return checked(pl.DataFrame(rows, schema=SAMPLES), SAMPLES, "samples")


def differences_table(items: pl.DataFrame, seed: int = 0) -> pl.DataFrame:
    """DIFFERENCES frame from ITEMS: avg@k of every pair of runs with drawn answers, the base first and always a.

    The comparison for drawn answers, in place of McNemar's test. Paired by problem: the mean over shared problems of
    the difference in the share right, with `paired_bootstrap` over problems. The 95 % are each pair's own, not of all
    pairs together. `InputError` as `checked_items`, and when two runs share no problem on a benchmark.
    """
    drawn = checked_items(items).filter(pl.col("sample") > 0)
    rows: list[dict[str, Any]] = []
    for (benchmark,), group in drawn.group_by("benchmark", maintain_order=True):
        problems = _problems(group)
        runs = problems["run"].unique(maintain_order=True).to_list()
        for a, b in combinations(runs, 2):
            rows.append({"benchmark": benchmark, "run_a": a, "run_b": b, **_difference(problems, a, b, seed)})
            if rows[-1]["n"] == 0:
                raise InputError(f"items: runs {a} and {b} share no problem of {benchmark}; evaluate both on the same")
    return checked(pl.DataFrame(rows, schema=DIFFERENCES), DIFFERENCES, "differences")


def _difference(problems: pl.DataFrame, run_a: str, run_b: str, seed: int) -> dict[str, Any]:
    a, b = (problems.filter(run=run).select("problem_id", "samples", "correct") for run in (run_a, run_b))
    both = a.join(b, on="problem_id", maintain_order="left")
    if both.is_empty():
        return {"n": 0}
    share_a, share_b = (both[f"correct{end}"] / both[f"samples{end}"] for end in ("", "_right"))
    found = paired_bootstrap(share_a, share_b, seed=seed)
    varies = np.ptp((share_a - share_b).to_numpy()) > 0
    return {
        "n": both.height,
        "samples": min(both["samples"].min(), both["samples_right"].min()),  # type: ignore[type-var]
        "difference": found.estimate,
        "low": found.low if varies else None,
        "high": found.high if varies else None,
    }


def _with_votes(group: pl.DataFrame) -> pl.DataFrame:
    """``group`` with the column ``vote``: equal for answers to a problem that are mathematically equal, null for none.

    The right answers of a problem are one class: the grader found each equal to the gold. The wrong ones of all runs
    are sorted into classes by `tasks.grading.equal.answer_classes`, the shortest text of a class standing for it.
    """
    from tasks.grading.equal import answer_classes

    wrong = group.filter(~pl.col("correct")).drop_nulls("prediction").select("problem_id", "prediction").unique()
    order = wrong.sort("problem_id", pl.col("prediction").str.len_chars(), "prediction")
    lists = order.group_by("problem_id", maintain_order=True).agg("prediction")
    classes = pl.Series("vote", answer_classes(lists["prediction"].to_list()), dtype=pl.List(pl.Int64))
    votes = lists.with_columns(classes).explode("prediction", "vote")
    return group.join(votes, on=["problem_id", "prediction"], how="left", maintain_order="left").with_columns(
        vote=pl.when(pl.col("prediction").is_null()).then(None).when("correct").then(_RIGHT).otherwise("vote")
    )


def _problems(group: pl.DataFrame) -> pl.DataFrame:
    """One row a run and problem: ``samples``, ``correct`` and, where there are votes, ``counts`` of each answer and
    whether it is ``right``."""
    keys = ["run", "problem_id"]
    totals = group.group_by(keys, maintain_order=True).agg(samples=pl.len(), correct=pl.col("correct").sum())
    if "vote" not in group.columns:
        return totals
    votes = group.drop_nulls("vote").group_by([*keys, "vote"], maintain_order=True).agg(counts=pl.len())
    answers = votes.with_columns(right=(pl.col("vote") == _RIGHT).cast(pl.Float64()))
    lists = answers.group_by(keys, maintain_order=True).agg("counts", "right")
    return totals.join(lists, on=keys, how="left", maintain_order="left")


def _scores(problems: pl.DataFrame, k: int) -> dict[str, tuple[float, ...]]:
    """Each metric's value for each problem."""
    scores: dict[str, list[float]] = {"avg": [], "pass": [], "maj": []}
    for samples, correct, counts, right in problems.select("samples", "correct", "counts", "right").iter_rows():
        counts, right = counts or [], right or []  # null: nothing was read out of any sample
        scores["avg"].append(correct / samples)
        scores["pass"].append(pass_at_k(samples, correct, k))
        scores["maj"].append(maj_at_k(counts, right, samples - sum(counts), k))
    return {metric: tuple(values) for metric, values in scores.items()}


@lru_cache(maxsize=100_000)
def _win(own: int, others: tuple[int, ...], unparsed: int, k: int) -> float:
    """Share of the choices of k samples that an answer given ``own`` times wins; a tie of s + 1 counts 1 / (s + 1).

    For each number of votes t that it may get, the ways in which the rest of the k samples falls on the others, none
    of them above t. Answers given less than t times cannot tie and are, with the samples that do not vote, one heap;
    those given t times or more are counted answer by answer, by (samples taken so far, answers level with t so far).
    ``others`` descending.
    """
    n = sum(others) + own + unparsed
    choices = 0.0
    for votes in range(max(1, k - (n - own)), min(own, k) + 1):
        rest = k - votes
        rivals = [count for count in others if count >= votes]
        heap = unparsed + sum(others[len(rivals) :])
        if heap + votes * len(rivals) < rest:
            continue  # so many samples give somebody more votes
        ways = np.zeros((rest + 1, min(len(rivals), rest // votes) + 1))
        ways[: heap + 1, 0] = [comb(heap, taken) for taken in range(min(heap, rest) + 1)]
        for count in rivals:
            after = np.zeros_like(ways)
            for taken in range(min(votes, rest) + 1):
                moved = comb(count, taken) * ways[: rest + 1 - taken]
                if taken < votes:
                    after[taken:] += moved
                else:
                    after[taken:, 1:] += moved[:, :-1]
            ways = after
        choices += comb(own, votes) * float(ways[rest] @ (1 / np.arange(1, ways.shape[1] + 1)))
    return choices / comb(n, k)


def _check_ks(problems: pl.DataFrame, benchmark: str, ks: Sequence[int]) -> None:
    least = problems.sort("samples", maintain_order=True).row(0, named=True)
    for k in ks:
        if not 1 <= k <= least["samples"]:
            raise InputError(
                f"k is {k}, but run {least['run']} has {least['samples']} samples of {benchmark} problem "
                f"{least['problem_id']}; k lies between 1 and the samples: lower it, or raise evaluation.samples"
            )


def _check_k(k: int, n: int) -> None:
    if not 1 <= k <= n:
        raise InputError(f"k is {k} of n = {n} samples; k lies between 1 and the samples: lower it, or sample more")
