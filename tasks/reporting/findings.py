"""The sentences at the top of a report, generated from the numbers: what they say is what the tables show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import polars as pl

from tasks.contracts import RunInfo
from tasks.reporting.floors import INITIALISATION
from tasks.reporting.formats import benchmark_name, learning_rate, listed, number, p_value, percent, points
from tasks.reporting.join import (
    HARD,
    HELDOUT,
    Score,
    StudyTables,
    Versus,
    base_of,
    benchmarks,
    nobody_solves,
    primary_benchmark,
    score,
    spectrum_value,
    trained_runs,
    versus,
)
from tasks.reporting.notes import floor_note
from tasks.reporting.pairs import (
    AT_FLOOR,
    AT_START,
    BELOW_FLOOR,
    BELOW_START,
    NO_FLOOR,
    OTHER_SEED,
    UNKNOWN_START,
    Geometry,
)

_TEST = "p: exact McNemar, Holm-adjusted over all pairs of runs."

_WEAK_FLOOR = 0.5
"""A floor below this means that a method does not agree with itself, so no cosine between methods says much."""


@dataclass(frozen=True)
class Findings:
    """``warnings`` stand above everything else; ``sentences`` are the headline."""

    warnings: tuple[str, ...]
    sentences: tuple[str, ...]


def findings(tables: StudyTables, view: Geometry) -> Findings:
    """The headline of a study, in plain sentences with their numbers."""
    tested = list(dict.fromkeys([primary_benchmark(tables), *(b for b in benchmarks(tables) if b == HARD)]))
    candidates = [
        direction(view),
        *(_accuracy(tables, benchmark) for benchmark in tested),
        _lost(tables),
        _not_measured(tables, view),
    ]
    return Findings(tuple(_warnings(tables, view)), tuple(sentence for sentence in candidates if sentence))


def _warnings(tables: StudyTables, view: Geometry) -> Iterator[str]:
    if nobody_solves(tables):
        untaught = tables.accuracy.filter(pl.col("method") != "teacher")
        solved = untaught.sort("accuracy", descending=True).row(0, named=True)
        instead = "read the answer loss instead" if untaught["answer_loss"].count() else "no answer loss was measured"
        yield (
            f"This model does not solve these problems: no accuracy is above {percent(solved['accuracy'])} % "
            f"({solved['correct']} of {solved['n']}, {solved['run']}). Accuracy cannot tell the methods apart here; "
            f"{instead}."
        )
    if tables.accuracy.is_empty():
        yield "No accuracy was measured, neither for the base nor for any method."
    elif all(score(tables, base_of(tables).run, benchmark) is None for benchmark in benchmarks(tables)):
        yield "The base was not evaluated, so no accuracy here can be called a gain or a loss."
    yield from weak_floor(view)
    for check in tables.study.get("checks") or []:
        if not check["ok"]:
            yield f"Check failed: {check['name']}: {check['detail']}"


def weak_floor(view: Geometry) -> Iterator[str]:
    """A warning where a method does not agree with itself."""
    if view.floor is not None and view.floor < _WEAK_FLOOR:
        yield (
            f"The noise floor is only {number(view.floor, 3)}: a method does not agree with itself when the order of "
            "its data changes, so the cosines between methods say little."
        )


def direction(view: Geometry) -> str:
    """Which runs move the weights like the reference, relative to the noise floor of their kind of pair."""
    reference = view.reference
    if reference is None:
        return ""
    groups: dict[str, list[tuple[float, RunInfo]]] = {}
    for info in view.runs:
        cosine = view.cosine(info.run, reference.run)
        if cosine is not None and info.run != reference.run:
            groups.setdefault(view.standing(info, reference), []).append((cosine, info))
    for group in groups.values():
        group.sort(key=lambda entry: -entry[0])
    if not groups:
        return ""
    start = view.floor_of(INITIALISATION, "cosine")
    if view.floor is None and start is None:
        return f"Cosine to {reference.run}: {_cosines(next(iter(groups.values())))}. {floor_note(view)}"
    said: list[str] = []
    if view.floor is not None:
        meaning = f"the noise floor ({number(view.floor, 3)}: the same training in another order of the data)"
        said += _against(groups.get(AT_FLOOR, []), groups.get(BELOW_FLOOR, []), reference, view.floor, meaning)
    if start is not None:
        meaning = f"the initialisation floor ({number(start.lowest, 3)}: the same method from another initialisation)"
        said += _against(groups.get(AT_START, []), groups.get(BELOW_START, []), reference, start.lowest, meaning)
    said += [f"{lead}: {_cosines(groups[key])}." for key, lead in _UNJUDGED.items() if key in groups]
    return " ".join(said)


_UNJUDGED = {
    OTHER_SEED: "From another LoRA initialisation, where the floor does not apply",
    NO_FLOOR: "From the same LoRA initialisation, for which no floor was measured",
    UNKNOWN_START: "From an initialisation that is not known, so that no floor applies",
}


def _against(
    at: list[tuple[float, RunInfo]], below: list[tuple[float, RunInfo]], reference: RunInfo, floor: float, meaning: str
) -> Iterator[str]:
    if at:
        alike = listed([f"{info.run} ({number(cosine, 3)})" for cosine, info in at])
        yield (
            f"By the direction of the weight update, {alike} cannot be told from {reference.run}: cosine at or above "
            f"{meaning}."
        )
    elif below:
        yield f"No method moves the weights as much like {reference.run} as {reference.run} itself does at {meaning}."
    if below:
        lower = [f"{info.run} {number(cosine, 3)} ({number(floor - cosine, 3)} below)" for cosine, info in below]
        yield f"Below the floor: {listed(lower)}."


def _cosines(group: list[tuple[float, RunInfo]]) -> str:
    return listed([f"{info.run} {number(cosine, 3)}" for cosine, info in group])


def _accuracy(tables: StudyTables, benchmark: str) -> str:
    """Which runs change accuracy against the base."""
    base = base_of(tables).run
    start = score(tables, base, benchmark)
    compared = [(info.run, versus(tables, info.run, base, benchmark)) for info in trained_runs(tables)]
    measured = [(run, result) for run, result in compared if result is not None]
    if start is None or not measured:
        return ""

    def group(keep: list[tuple[str, Versus]]) -> str:
        changes = [f"{run} ({points(result.difference)} points, p = {p_value(result.p_holm)})" for run, result in keep]
        return listed(changes)

    higher = [(run, result) for run, result in measured if result.shown and result.difference > 0]
    lower = [(run, result) for run, result in measured if result.shown and result.difference < 0]
    rest = [(run, result) for run, result in measured if not result.shown]
    if not higher and not lower:
        return f"{_lead(benchmark, start)} {_nothing_shown([result for _, result in rest])}. {_TEST}"
    said = [
        f"higher for {group(higher)}" if higher else "",
        f"lower for {group(lower)}" if lower else "",
        f"no difference shown for {group(rest)}" if rest else "",
    ]
    return f"{_lead(benchmark, start)} {'; '.join(part for part in said if part)}. {_TEST}"


def _lead(benchmark: str, start: Score) -> str:
    return f"{benchmark_name(benchmark)} accuracy against the base's {percent(start.accuracy)} % (n = {start.n}):"


def _nothing_shown(results: list[Versus]) -> str:
    changes = sorted(result.difference for result in results)
    smallest = min((result.p_holm for result in results if result.p_holm is not None), default=None)
    spread = f"changes from {points(changes[0])} to {points(changes[-1])} points, smallest p = {p_value(smallest)}"
    discordant = sum(result.only_this + result.only_other for result in results)
    why = "" if discordant else "; no problem was answered right by one and wrong by the other"
    return f"no difference shown for any of the {len(results)} runs ({spread}{why})"


def dropped_rows(rollouts: dict[str, Any]) -> dict[str, int]:
    """Rule -> rows that it dropped, from a ``dropped`` that is one count or a count a rule."""
    dropped = rollouts.get("dropped")
    if isinstance(dropped, dict):
        return {str(rule): count for rule, count in dropped.items() if count}
    return {"rows": dropped} if dropped else {}


def _lost(tables: StudyTables) -> str:
    """Answers and rows that fell out on the way, the worst run of each kind."""
    parts = []
    for column, what in (("unparsed", "had no answer to read"), ("truncated", "were cut at the token limit")):
        worst = tables.accuracy.filter(pl.col(column) > 0).sort(pl.col(column) / pl.col("n"), descending=True)
        if worst.height:
            row = worst.row(0, named=True)
            where = f"{row['run']}, {benchmark_name(row['benchmark']).lower()} set"
            parts.append(f"up to {row[column]} of {row['n']} answers {what} ({where})")
    dropped = dropped_rows(tables.rollouts)
    if dropped:
        rules = listed([rule if rule == "rows" else f"{rule}: {count}" for rule, count in dropped.items()])
        parts.append(f"{sum(dropped.values())} rollout rows were dropped" + ("" if rules == "rows" else f" ({rules})"))
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _not_measured(tables: StudyTables, view: Geometry) -> str:
    """What a reader might look for and will not find."""
    runs = trained_runs(tables)
    couples = [(a.run, b.run) for a, b in combinations(runs, 2)]
    missing = sum(view.cosine(a, b) is None for a, b in couples)
    losses = tables.accuracy["answer_loss"]
    absent = {
        "held-out accuracy": HELDOUT not in benchmarks(tables),
        "a harder set": HARD not in benchmarks(tables),
        "answer loss": losses.null_count() == losses.len(),
        "the noise floor of the data order": view.floor is None,
        "the noise floor of the initialisation": view.floor_of(INITIALISATION, "cosine") is None,
        f"{missing} of {len(couples)} cosines between runs": missing > 0,
        "principal angles": not view.ks,
        "norms and effective ranks": all(spectrum_value(tables.spectra, info.run, "norm") is None for info in runs),
        "training losses": tables.training.is_empty(),
        "path connectivity": True,
        "CKA of activations": True,
        "spread over learning rates": all(
            len({info.lr for info in runs if info.method == method}) < 2 for method in {info.method for info in runs}
        ),
    }
    rates = {method: next(i.lr for i in runs if i.method == method) for method in dict.fromkeys(i.method for i in runs)}
    sentence = f"Not measured: {listed([name for name, is_absent in absent.items() if is_absent], 'and')}."
    if absent["spread over learning rates"] and len(set(rates.values())) > 1:
        usual = max(set(rates.values()), key=list(rates.values()).count)
        others = [f"{method} ({learning_rate(lr)})" for method, lr in rates.items() if lr != usual]
        sentence += (
            f" Learning rates differ: {listed(others)} against {learning_rate(usual)} for the others, so method and "
            "learning rate are not told apart there."
        )
    return sentence
