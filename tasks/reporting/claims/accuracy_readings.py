"""Readings of claims about accuracy: paired differences, their intervals and McNemar's exact p.

A claim is one question, fixed before the data: it reads the pair's own p, not the one adjusted over the study's other
pairs. It speaks of methods, so its interval is the one with the spread of repeated trainings, where there are any; the
part says which it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tasks.reporting.claims.claim import Part, Reading
from tasks.reporting.claims.evidence import Evidence
from tasks.reporting.claims.measured import Measured, Missing, Noise
from tasks.reporting.claims.pair_readings import NO_MATCHED, dpo_at_rate
from tasks.reporting.claims.spread import KIND, order_groups
from tasks.reporting.formats import benchmark_name, number, p_value
from tasks.reporting.notes import freedom
from tasks.reporting.views.floors import ORDER
from tasks.reporting.views.join import (
    StudyTables,
    Versus,
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
    return [replace(part, parts=len(pairs)) if isinstance(part, Measured) else part for part in parts]


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
    low, high = (found.low, found.high) if found.repeatable is None else (found.method_low, found.method_high)
    detail = f"{benchmark_name(benchmark)}, {_told(found)}"
    noise = _noise(evidence, benchmark)
    return Measured(
        f"{run} less {other}", found.difference, low, high, noise, found.n, "problems", detail, found.p_value
    )


def _told(found: Versus) -> str:
    """The test, and what the interval is about."""
    least = "none" if found.detectable is None else number(100 * found.detectable, 1)
    test = f"exact p = {p_value(found.p_value)}{' and not 0' if found.rejects else ''}, detectable {least}"
    if found.repeatable is None:
        return f"{test}, interval of these two models: no training was repeated"
    again = "; these two models differ, a repeat of the training might not"
    return (
        f"{test}, interval with the spread of repeated trainings ({freedom(found)})"
        f"{again if found.rejects and not found.repeatable else ''}"
    )


def _noise(evidence: Evidence, benchmark: str) -> Noise | None:
    """Accuracies of one method in two data orders: how far they lie apart."""
    found = [versus(evidence.tables, a, b, benchmark) for a, b in evidence.view.replicate_pairs[ORDER]]
    apart = [abs(one.difference) for one in found if one is not None]
    df = sum(len(group) - 1 for group in order_groups(evidence.view))
    return Noise(KIND, 0.0, max(apart), df) if apart else None


def _benchmark(tables: StudyTables) -> str:
    return PAPERS if PAPERS in benchmarks(tables) else primary_benchmark(tables)
