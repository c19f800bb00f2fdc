"""What a reader of a comparison must know first: what confounds it, what it leaves out, and its extremes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import polars as pl

from tasks.core.results import RunInfo
from tasks.reporting.findings.headline import Findings
from tasks.reporting.findings.sentences import PAIRS, weak_floor
from tasks.reporting.formats import listed, number, size
from tasks.reporting.notes import MOST_NAMED, count, interval, named, percentile
from tasks.reporting.tables.adapters import WORDS, hardly_trained, kind_of_cosine, plain_base
from tasks.reporting.views.floors import INITIALISATION, SHARED_START
from tasks.reporting.views.pairs import (
    AT_FLOOR,
    AT_START,
    BELOW_FLOOR,
    BELOW_START,
    Geometry,
    across_note,
    grouped,
    identical,
)
from tasks.reporting.views.study import Comparison

_MOST_RUNS = 6

_FAR_ABOVE = 99.0
"""Percentile among random subspaces from which on a cosine is called far above them."""


def comparison_findings(compared: Comparison) -> Findings:
    """Warnings that stand above everything else, and the headline in sentences."""
    view = compared.geometry
    warnings = [
        *_shared_initialisation(view),
        *_zero(view),
        *_identical(view),
        *_bases(compared.adapters),
        *_unshared(compared.unshared),
        *_merged(compared.adapters),
        *_no_floor(view),
        *weak_floor(view),
    ]
    found = tuple((PAIRS, sentence) for sentence in _extremes(view))
    return Findings(tuple(warnings), comparison_lead(compared), found)


def comparison_lead(compared: Comparison) -> tuple[str, ...]:
    """How near the adapters are to the reference, against what that can be read, and which were hardly trained."""
    view = compared.geometry
    return tuple(sentence for sentence in (_kinds(view), _calibrated(view), _hardly(compared)) if sentence)


def _kinds(view: Geometry) -> str:
    """The adapters by how near they are to the reference: the one sentence that answers the question."""
    reference = view.reference
    if reference is None:
        return ""
    found: dict[str, list[tuple[float, str]]] = {kind: [] for kind in WORDS}
    for info in view.runs:
        cosine = view.cosine(info.run, reference.run)
        if info != reference and cosine is not None:
            found[kind_of_cosine(cosine)].append((cosine, info.run))
    leads = {
        "near-copy": "near-copies",
        "alike": "alike",
        "weakly alike": "weakly alike",
        "near zero": "near zero",
        "opposite": "opposite",
    }
    told = {
        kind: [f"{run} {number(cosine, 3)}" for cosine, run in sorted(group, reverse=True)]
        for kind, group in found.items()
    }
    parts = [f"{leads[kind]}: {named(group, _MOST_RUNS)}" for kind, group in told.items() if group]
    return f"Cosine to {reference.run}: {'; '.join(parts)}." if parts else ""


def _calibrated(view: Geometry) -> str:
    """Against what the cosines can be read: a repeat run, or random subspaces only."""
    reference = view.reference
    if reference is None:
        return ""
    start = view.floor_of(INITIALISATION, "cosine")
    known = [
        *([f"{number(view.floor, 3)} in another data order"] if view.floor is not None else []),
        *([f"{number(start.lowest, 3)} from another initialisation"] if start is not None else []),
    ]
    if known:
        return f"A method and its repeat run have a cosine of {listed(known)}: what lies below is more than noise."
    ranks = {
        info.run: found.percentile
        for info in view.runs
        if info != reference and (found := view.estimate(info.run, reference.run, "cosine")).percentile is not None
    }
    if not ranks:
        return ""
    above = [run for run, rank in ranks.items() if rank >= _FAR_ABOVE]
    lead = (
        "All are far above random directions"
        if len(above) == len(ranks)
        else f"{named(above, _MOST_RUNS)} {'is' if len(above) == 1 else 'are'} far above random directions"
        if above
        else "None is far above random directions"
    )
    return f"{lead}; no repeat run is among them to calibrate what is near (--replicate A=B names one)."


def _hardly(compared: Comparison) -> str:
    """Adapters whose update is next to nothing beside the others'."""
    norms = compared.norms
    small = [
        f"{run} (norm {size(norms[run], 3)} against {number(usual, 2)})" for run, usual in hardly_trained(norms).items()
    ]
    return f"Hardly trained: {named(small, _MOST_RUNS)}." if small else ""


def _shared_initialisation(view: Geometry) -> Iterator[str]:
    alike = {}
    for a, b in combinations(view.runs, 2):
        cosine = view.value(a.run, b.run, "lora_a_cosine")
        if cosine is not None and cosine > SHARED_START:
            alike[a.run, b.run] = cosine
    if not alike:
        return
    groups = [named(group, _MOST_RUNS) for group in grouped(alike)]
    low, high = number(min(alike.values()), 3), number(max(alike.values()), 3)
    many = f"cosine of their lora_A {low}" if low == high else f"cosines of their lora_A from {low} to {high}"
    yield (
        f"Shared initialisation: {'; '.join(groups)} began from one lora_A ({count(len(alike), 'pair')}, {many}). "
        "Their right singular subspaces and |v1 v1'| agree because lora_A is shared, whatever was trained. Read the "
        "left side (angles of the left subspaces, |u1 u1'|), and compare with a floor of the same initialisation."
    )


def _zero(view: Geometry) -> Iterator[str]:
    nothing = [info.run for info in view.runs if info.run in view.zero]
    if nothing:
        yield (
            f"Zero update: {named(nothing, _MOST_RUNS)} {'changes' if len(nothing) == 1 else 'change'} no weight that "
            "was compared, like LoRA before its first step. Such an update has no direction: its cosines, angles and "
            "overlaps are undefined, which is not the same as 0."
        )


def _identical(view: Geometry) -> Iterator[str]:
    groups = [named(group, _MOST_RUNS) for group in identical(view)]
    if groups:
        yield f"Identical adapters: {'; '.join(groups)} have the same update. Their pairs say nothing about training."


def _bases(adapters: pl.DataFrame) -> Iterator[str]:
    """One base spelt in several ways is said as such; what names another base, or none, is singled out."""
    groups: dict[str, dict[str, list[str]]] = {}
    for run, base in adapters.select("run", "base").iter_rows():
        if base:
            groups.setdefault(plain_base(base), {}).setdefault(base, []).append(run)
    if len(groups) > 1:
        usual = max(groups, key=lambda plain: sum(map(len, groups[plain].values())))
        who = [f"{base} ({named(runs, MOST_NAMED)})" for spelt in groups.values() for base, runs in spelt.items()]
        others = [run for plain, spelt in groups.items() if plain != usual for runs in spelt.values() for run in runs]
        yield (
            f"Different bases: {listed(who)}. Updates of two base models have no common coordinates unless one is a "
            f"copy of the other, so the cosines and angles of {named(others, _MOST_RUNS)} mean little."
        )
    spellings = [spelt for spelt in groups.values() if len(spelt) > 1]
    for spelt in spellings:
        yield (
            f"One base, spelt in {len(spelt)} ways: {listed(list(spelt))}. They are taken for copies of one model by "
            "their names; their weights were not compared."
        )


def _unshared(unshared: pl.DataFrame) -> Iterator[str]:
    if unshared.is_empty():
        return
    missing: dict[tuple[str, str], list[str]] = {}
    for run, other, module in unshared.iter_rows():
        missing.setdefault((run, other), []).append(module)
    parts = [
        f"{count(len(modules), 'module')} of {run} {'is' if len(modules) == 1 else 'are'} not in {other} "
        f"({named(modules, MOST_NAMED)})"
        for (run, other), modules in list(missing.items())[:MOST_NAMED]
    ]
    more = f"; likewise {len(missing) - len(parts)} more pairs of runs" if len(missing) > len(parts) else ""
    yield (
        f"Modules on one side only are left out of a pair: {'; '.join(parts)}{more}. The full list is in "
        "unshared.parquet."
    )


def _merged(adapters: pl.DataFrame) -> Iterator[str]:
    runs = adapters.filter(pl.col("update") == "merged - base").select("run", "kind").rows()
    if runs:
        who = named([f"{run} ({kind})" for run, kind in runs], _MOST_RUNS)
        yield (
            f"Updates had by merged - base, since scale * B A is not what they do to the weights: {who}. Rounding of "
            "the stored weights is part of such an update."
        )


def _no_floor(view: Geometry) -> Iterator[str]:
    if len(view.runs) > 1 and view.floor is None and view.floor_of(INITIALISATION, "cosine") is None:
        yield (
            "No noise floor is known: no two of these adapters are said to be one training repeated, so no cosine here "
            "can be called as near as training again would be. Name two that differ only in data order or "
            "initialisation: --replicate A=B."
        )


def _extremes(view: Geometry) -> Iterator[str]:
    """The nearest and the farthest pair; a noise floor's own pairs only where there are no others."""
    measured = [
        (cosine, pair)
        for pair in combinations(view.runs, 2)
        if (cosine := view.cosine(pair[0].run, pair[1].run)) is not None
    ]
    between = [entry for entry in measured if view.replicate(*entry[1]) is None]
    aside = " (noise floors aside)" if between and len(between) < len(measured) else ""
    ranked = sorted(between or measured, key=lambda entry: -entry[0])
    if not ranked:
        return
    if len(ranked) == 1:
        yield f"The one pair{aside}: {_told(ranked[0][1], view)}"
        return
    yield f"Nearest pair{aside}: {_told(ranked[0][1], view)}"
    yield f"Farthest pair{aside}: {_told(ranked[-1][1], view)}"


def _told(pair: tuple[RunInfo, RunInfo], view: Geometry) -> str:
    """A pair with its cosine, interval, floor and percentile."""
    a, b = pair
    found = view.estimate(a.run, b.run, "cosine")
    parts = [f"{a.run} and {b.run}, cosine {number(found.value, 3)} {interval(found, 3)}".rstrip()]
    standing = view.standing(a, b)
    start = view.floor_of(INITIALISATION, "cosine")
    if standing in (AT_FLOOR, BELOW_FLOOR):
        parts.append(across_note(view, a, b))
        standing += f" ({number(min(view.likeness(a, b, 'cosine').floor), 3)})"
    elif standing in (AT_START, BELOW_START) and start is not None:
        standing += f" ({number(start.lowest, 3)})"
    parts.append(standing)
    if found.percentile is not None:
        parts.append(f"percentile {percentile(found)} of random subspaces (mean {number(found.null, 3)})")
    else:
        parts.append("null not measured")
    return ", ".join(part for part in parts if part) + "."
