"""The sentences of a report's first screen: direction, accuracy, and what neither of them can tell.

Each fits on two lines; what they leave out (intervals, p, floors, the other benchmarks) stands in the sections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.core.results import EQUAL, NO_POWER, RunInfo
from tasks.reporting.claims.claim import ClaimResult
from tasks.reporting.claims.measured import known
from tasks.reporting.claims.output import paper_text
from tasks.reporting.claims.rules import FAILS, TOLERANCES
from tasks.reporting.formats import benchmark_name, in_sentence, listed, number, percent, points, size, span
from tasks.reporting.notes import count, named
from tasks.reporting.tables.adapters import NEAR_COPY
from tasks.reporting.tables.headline import NEAR_ORTHOGONAL, rate_words
from tasks.reporting.views.accuracy import BASE_FAMILY, MARGIN, Versus
from tasks.reporting.views.pairs import AT_FLOOR, AT_START, BELOW_FLOOR, BELOW_START, Geometry
from tasks.reporting.views.study import Study

LONGEST = 260
"""Characters of a sentence that two lines of the first screen hold."""

_MOST = 6
"""Runs that a sentence names."""


def lead(study: Study) -> tuple[str, ...]:
    """At most three sentences; fewer where there is nothing to say."""
    said = (direction_lead(study.geometry), accuracy_lead(study), doubt_lead(study))
    return tuple(sentence for sentence in said if sentence)


def main_runs(runs: Sequence[RunInfo]) -> list[RunInfo]:
    """The first run of each method and learning rate: the others are its repeats."""
    return list({(info.method, info.lr): info for info in reversed(runs)}.values())[::-1]


# Direction


def direction_lead(view: Geometry) -> str:
    """Which methods move the weights as the reference does, up to what a repeat run of it differs."""
    reference = view.reference
    if reference is None:
        return ""
    near: list[tuple[float, str]] = []
    far: list[tuple[float, str]] = []
    open_: list[tuple[float, str]] = []
    all_across = True
    for info in main_runs(view.runs):
        cosine = view.cosine(info.run, reference.run)
        if info == reference or cosine is None or view.replicate(info, reference) is not None:
            continue
        standing = view.standing(info, reference)
        across = view.likeness(info, reference, "cosine").mean
        judged = across if standing in (AT_FLOOR, BELOW_FLOOR) else None
        value = cosine if judged is None else judged
        all_across = all_across and judged is not None
        side = near if standing in (AT_FLOOR, AT_START) else far if standing in (BELOW_FLOOR, BELOW_START) else open_
        side.append((value, info.run))
    own = view.likeness(reference, reference, "cosine").within[0]
    again = f"{reference.run} trained again" + (f" on reshuffled data (cosine {span(own, 3)})" if own else "")
    if not near and not far:
        why = "no repeat run was trained that could say what is near" if open_ else ""
        return f"Cosine to {reference.run}: {_cosines(open_)}; {why}." if open_ else ""
    groups = {
        "close": [entry for entry in far if entry[0] >= NEAR_COPY],
        "partly alike": [entry for entry in far if NEAR_ORTHOGONAL <= entry[0] < NEAR_COPY],
        "nearly orthogonal": [entry for entry in far if abs(entry[0]) < NEAR_ORTHOGONAL],
        "opposite": [entry for entry in far if entry[0] <= -NEAR_ORTHOGONAL],
        "not judged": open_,
    }
    rest = "; ".join(f"{words}: {_cosines(group)}" for words, group in groups.items() if group)
    where = "Across orders" if all_across else "Against it"
    if near:
        verb = "moves" if len(near) == 1 else "move"
        others = f"; {rest}" if rest else ""
        return f"{_cosines(near)} {verb} the weights as near to {reference.run} as {again}{others}."
    return f"No method moves the weights as near to {reference.run} as {again}. {where}, {rest}."


def _cosines(group: Sequence[tuple[float, str]]) -> str:
    ranked = sorted(group, key=lambda entry: -entry[0])
    return named([f"{run} {number(value, 3)}" for value, run in ranked], _MOST)


# Accuracy


def accuracy_lead(study: Study) -> str:
    """Which methods gain or lose against the base, and whether they differ from each other."""
    benchmark, base = study.primary, study.base.run
    start = study.score(base, benchmark)
    compared = [(info.run, study.versus(info.run, base, benchmark)) for info in study.trained]
    asked = [(run, found) for run, found in compared if found is not None and found.family == BASE_FAMILY]
    if start is None or not asked or study.unended(benchmark):
        return ""
    groups = [
        ("loses", "lose", [one for one in asked if one[1].shown and one[1].difference < 0]),
        ("gains", "gain", [one for one in asked if one[1].shown and one[1].difference > 0]),
    ]
    parts = [
        f"{_all_or_named(group, asked)} {verb if len(group) == 1 else verbs} {_unsigned(group)} points"
        for verb, verbs, group in groups
        if group
    ]
    equal = [one for one in asked if one[1].verdict == EQUAL]
    unsure = [one for one in asked if one[1].verdict == NO_POWER]
    if equal:
        parts.append(f"{_all_or_named(equal, asked)} {'is' if len(equal) == 1 else 'are'} equal to it within {MARGIN}")
    if unsure:
        parts.append(f"{_all_or_named(unsure, asked)} {'is' if len(unsure) == 1 else 'are'} undecided")
    said = f"{benchmark_name(benchmark)} accuracy against the base's {percent(start.accuracy)} %: {listed(parts)}."
    return f"{said} {_among(study, [run for run, _ in asked], benchmark, LONGEST - len(said))}".strip()


def _all_or_named(group: Sequence[tuple[str, Versus]], asked: Sequence[tuple[str, Versus]]) -> str:
    return f"all {len(group)} methods" if len(group) == len(asked) > 2 else named([run for run, _ in group], _MOST)


def _unsigned(group: Sequence[tuple[str, Versus]]) -> str:
    return span([abs(100 * found.difference) for _, found in group], 1)


def _among(study: Study, runs: Sequence[str], benchmark: str, room: int) -> str:
    """Whether the methods differ from each other: who is above whom, or, where that is long, in how many pairs."""
    pairs = {
        (a, b): found for a in runs for b in runs if a != b and (found := study.versus(a, b, benchmark)) is not None
    }
    total = len(pairs) // 2
    shown = {pair: found for pair, found in pairs.items() if found.shown and found.difference > 0}
    if not total:
        return ""
    if not shown:
        equal = sum(found.verdict == EQUAL for found in pairs.values()) // 2
        told = " (all are equal)" if equal == total else f" ({equal} are equal)" if equal else ""
        return f"Between methods no difference is shown, in {count(total, 'pair')}{told}."
    (best, worst), largest = max(shown.items(), key=lambda entry: entry[1].difference)
    short = (
        f"Between methods a difference is shown in {len(shown)} of {count(total, 'pair')}, the largest from {worst} to "
        f"{best} ({points(largest.difference)})."
    )
    above: dict[str, tuple[str, ...]] = {}
    for winner, loser in shown:
        above[winner] = (*above.get(winner, ()), loser)
    groups: dict[tuple[str, ...], list[str]] = {}
    for winner, beaten in sorted(above.items(), key=lambda entry: -len(entry[1])):
        groups.setdefault(beaten, []).append(winner)
    parts = []
    for losers, winners in groups.items():
        everyone = len(losers) == len(runs) - len(winners) and len(losers) > 1
        parts.append(f"{listed(winners)} above {'all others' if everyone else listed(losers)}")
    rest = total - len(shown)
    others = "the other pair is" if rest == 1 else f"the other {rest} pairs are"
    long = f"Between methods: {'; '.join(parts)}; {others} not shown to differ."
    if not rest:
        long = f"Between methods: {'; '.join(parts)}."
    return long if len(long) <= room else short


# What is not told


@dataclass(frozen=True)
class _Rate:
    run: str
    words: str
    norm: float | None


def doubt_lead(study: Study) -> str:
    """What was trained at another rate, and where a difference could not have been seen."""
    parts = [_rates(study), _undecided(study)]
    said = [part for part in parts if part]
    return " ".join(said) if len(" ".join(said)) <= LONGEST else said[0] if said else ""


def _rates(study: Study) -> str:
    view = study.geometry
    runs = main_runs(view.runs)
    others = [
        _Rate(info.run, words, study.spectrum(info.run, "norm"))
        for info in runs
        if (words := rate_words(info, view.reference))
    ]
    if not others or len({info.method for info in runs}) < len(runs):  # a method at several rates tells them apart
        return ""
    names = {one.run for one in others}
    usual = [study.spectrum(info.run, "norm") for info in runs if info.run not in names]
    sizes = [one.norm for one in others if one.norm is not None]
    norm = ""
    if sizes and any(value is not None for value in usual):
        low, high = size(min(sizes), 3), size(max(sizes), 3)
        norm = f" (norm of the update {low if low == high else f'{low} to {high}'}, others {span(usual, 1)})"
    who = listed([one.run for one in others[:3]])
    rates = listed(sorted({one.words for one in others[:3]}))
    verb, them = ("was", "it") if len(others) == 1 else ("were", "them")
    return f"{who} {verb} trained at {rates}{norm}: that may set {them} apart, not the method."


def _undecided(study: Study) -> str:
    """Benchmarks on which some method can be told neither apart from the base nor equal to it."""
    base, parts = study.base.run, []
    for benchmark in study.benchmarks:
        if study.unended(benchmark):
            continue
        found = [study.versus(info.run, base, benchmark) for info in study.trained]
        asked = [one for one in found if one is not None and one.family == BASE_FAMILY]
        unsure = [one for one in asked if one.verdict == NO_POWER]
        sizes = [100 * one.detectable for one in unsure if one.detectable is not None]
        if unsure:
            seen = f" (gaps below {span(sizes, 1)} points are mostly missed)" if sizes else ""
            where = f"the {asked[0].n:,} {in_sentence(benchmark)} problems"
            parts.append(
                f"on {where} {len(unsure)} of {count(len(asked), 'method')} cannot be told from the base{seen}"
            )
    return f"O{'; '.join(parts)[1:]}." if parts else ""


# The paper


def disagreements(results: Sequence[ClaimResult]) -> str:
    """The failing claim on accuracy and the one on the weights that are farthest from the paper, with their numbers."""
    failing = [
        (_distance(one), one)
        for one in results
        if one.verdict == FAILS and one.measured is not None and one.claim.paper and not one.claim.open
    ]
    accuracy = [entry for entry in failing if entry[1].claim.unit == "points"]
    weights = [entry for entry in failing if entry[1].claim.unit in ("", "degrees")]
    chosen = [max(group, key=lambda entry: entry[0])[1] for group in (accuracy, weights) if group]
    said = [f"“{one.claim.statement.rstrip('.')}” ({_here(one)})" for one in chosen]
    return f"Farthest from the paper: {'; '.join(said)}." if said else ""


def _here(one: ClaimResult) -> str:
    assert one.measured is not None
    unit = f" {one.claim.unit}" if one.claim.unit else ""
    paper = "" if one.claim.unit == "points" else f", paper {paper_text(one.claim)}"
    what = one.measured.what.replace(" less ", " minus ")
    return f"here {number(one.claim.scale * one.measured.value, one.claim.decimals)}{unit}, {what}{paper}"


def _distance(one: ClaimResult) -> float:
    """How many tolerances the number is from the paper's; a difference in accuracy from 0."""
    assert one.measured is not None
    value = known(one.measured.value)
    if value is None:
        return 0.0
    unit = one.claim.unit
    if unit == "points":
        return abs(value) / TOLERANCES.points
    tolerance = TOLERANCES.degrees if unit == "degrees" else TOLERANCES.likeness
    return min(abs(value - paper) for paper in one.claim.paper) / tolerance
