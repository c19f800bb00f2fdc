"""Readings of claims about accuracy: paired differences with McNemar's verdicts."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.reporting.claims.claim import Part, Reading
from tasks.reporting.claims.evidence import Evidence
from tasks.reporting.claims.measured import Measured, Missing, Noise
from tasks.reporting.claims.pair_readings import NO_MATCHED, dpo_at_rate
from tasks.reporting.claims.spread import KIND, order_groups
from tasks.reporting.floors import ORDER
from tasks.reporting.formats import benchmark_name, number, p_value
from tasks.reporting.join import (
    StudyTables,
    base_of,
    benchmarks,
    nobody_solves,
    primary_benchmark,
    score,
    unended,
    versus,
)

PAPERS = "gsm8k"
HARD = ("aime2026", "aime")
Z = 1.959963984540054
"""The normal distribution's .975 quantile."""


def accuracy(*pairs: tuple[str, str]) -> Reading:
    """Accuracy of the first method less that of the second; "base" may be one. On GSM8K where it is, else on the
    study's first benchmark."""

    def read(evidence: Evidence) -> list[Part]:
        return _differences(evidence, pairs, _benchmark(evidence.tables))

    return read


def accuracy_hard(*pairs: tuple[str, str]) -> Reading:
    """The same on the paper's hard benchmark."""

    def read(evidence: Evidence) -> list[Part]:
        there = benchmarks(evidence.tables)
        benchmark = next((name for name in HARD if name in there), None)
        if benchmark is None:
            return [Missing("AIME 2026 was not evaluated (evaluation.benchmarks does that)")]
        return _differences(evidence, pairs, benchmark)

    return read


def matched_accuracy(evidence: Evidence) -> list[Part]:
    """DPO at SFT's learning rate against the base."""
    found = dpo_at_rate(evidence)
    if found is None:
        return [Missing(NO_MATCHED)]
    return [_difference(evidence, found.run, base_of(evidence.tables).run, _benchmark(evidence.tables))]


def _differences(evidence: Evidence, pairs: Sequence[tuple[str, str]], benchmark: str) -> list[Part]:
    names = {method: info.run for method, info in evidence.main.items()} | {"base": base_of(evidence.tables).run}
    parts: list[Part] = []
    for a, b in pairs:
        absent = [name for name in (a, b) if name not in names]
        if absent:
            parts.append(Missing(f"no run of {' or '.join(absent)}"))
        else:
            parts.append(_difference(evidence, names[a], names[b], benchmark))
    return parts


def _difference(evidence: Evidence, run: str, other: str, benchmark: str) -> Part:
    if nobody_solves(evidence.tables):
        return Missing("no model solves these problems, so accuracy cannot tell any two apart")
    if unended(evidence.tables, benchmark):
        return Missing(f"not judged: the base's answers to {benchmark_name(benchmark)} problems do not end")
    if why := evidence.empty(run, other):
        return Missing(why)
    found = versus(evidence.tables, run, other, benchmark)
    if found is None:
        return Missing(f"{run} and {other} were not compared on {benchmark_name(benchmark)}")
    scores = [score(evidence.tables, name, benchmark) for name in (run, other)]
    if all(one is not None and one.correct == one.n for one in scores):
        return Missing(
            f"{run} and {other} solve all of {benchmark_name(benchmark)}, so accuracy cannot tell them apart"
        )
    low, high = paired_interval(found.only_this, found.only_other, found.n)
    least = "none" if found.detectable is None else number(100 * found.detectable, 1)
    detail = f"{benchmark_name(benchmark)}, p = {p_value(found.p_holm)}, detectable {least}"
    noise = _noise(evidence, benchmark)
    return Measured(
        f"{run} less {other}", found.difference, low, high, noise, found.n, "problems", detail, found.verdict
    )


def _noise(evidence: Evidence, benchmark: str) -> Noise | None:
    """Accuracies of one method in two data orders: how far they lie apart."""
    found = [versus(evidence.tables, a, b, benchmark) for a, b in evidence.view.twins[ORDER]]
    apart = [abs(one.difference) for one in found if one is not None]
    df = sum(len(group) - 1 for group in order_groups(evidence.view))
    return Noise(KIND, 0.0, max(apart), df) if apart else None


def paired_interval(only_this: int, only_other: int, n: int) -> tuple[float, float]:
    """95 % interval of a difference of two paired shares: Wald with one problem added to each side of the discordant
    ones and two to all (Bonett and Price 2012)."""
    this, other = (only_this + 1) / (n + 2), (only_other + 1) / (n + 2)
    difference = this - other
    half = Z * ((this + other - difference**2) / (n + 2)) ** 0.5
    return difference - half, difference + half


def _benchmark(tables: StudyTables) -> str:
    return PAPERS if PAPERS in benchmarks(tables) else primary_benchmark(tables)
