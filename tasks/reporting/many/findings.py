"""The sentences at the top of a page of many studies, generated from the same rows as its tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TypeVar

import polars as pl

from tasks.core.results import EQUAL
from tasks.reporting.claims.rules import FAILS, HOLDS, NO_POWER
from tasks.reporting.estimates import spread
from tasks.reporting.findings.headline import Findings, about
from tasks.reporting.findings.topics import ACCURACY, DIRECTIONS, MANY_CLAIMS, MIDPOINTS, RATES, STUDIES
from tasks.reporting.formats import benchmark_name, in_sentence, learning_rate, listed, points, significant, span
from tasks.reporting.many.claim_tables import joined_claims
from tasks.reporting.many.direction_tables import BOTH, INITIALISATION, ORDER, three, two
from tasks.reporting.many.joined import Many
from tasks.reporting.many.rate_tables import rate_steps
from tasks.reporting.many.rows import Rows, between, by_method, crossed, floors, grouped, once, values
from tasks.reporting.many.spread import told
from tasks.reporting.many.sweep import Sweep, diverged_sentence
from tasks.reporting.notes import MOST_LISTED, count, named
from tasks.reporting.views.join import REFERENCES, SHOWN

_MOST_RATES = 3
"""Learning rates that get a sentence of accuracies and one of cosines; the tables have all."""

_MOST_DPO = 4

_SMALL = partial(significant, digits=2)


def many_findings(
    many: Many,
    runs: pl.DataFrame,
    scores: pl.DataFrame,
    pairs: pl.DataFrame,
    across: pl.DataFrame,
    midpoints: pl.DataFrame,
    sweep: Sweep | None = None,
) -> Findings:
    """Warnings, then: what is joined and what diverged, accuracy, directions, floors, rates, DPO, paths, claims."""
    answered: list[tuple[str, str]] = []
    if not sweep:  # of a sweep's cells these are the table at the top
        answered = [
            (DIRECTIONS, _noise(across)),
            *((RATES, said) for said in _rates(many, runs, across)),
            *((RATES, said) for said in _dpo(many, runs, scores)),
            (MIDPOINTS, _paths(midpoints)),
        ]
    sentences = [
        (STUDIES, _joined(many)),
        *((STUDIES, said) for said in diverged_sentence(sweep)),
        *((ACCURACY, said) for said in _accuracy(many, scores)),
        *((DIRECTIONS, said) for said in _directions(many, pairs, across)),
        *answered,
        *((MANY_CLAIMS, said) for said in _claims(many)),
    ]
    lead = (_direction_lead(many, pairs, across), _accuracy_lead(many, scores), *diverged_sentence(sweep))
    return Findings(tuple(_warnings(many, scores)), **about(sentences), lead=tuple(said for said in lead if said))


def _direction_lead(many: Many, pairs: pl.DataFrame, across: pl.DataFrame) -> str:
    """Mean cosines to SFT at the rate that most pairs have, beside SFT's own repeat runs."""
    by_rate: dict[float, dict[str, Rows]] = {}
    for (method, other, _, rate, _), own in between(pairs, many).items():
        if other == "sft":
            by_rate.setdefault(rate, {}).setdefault(method, []).extend(own)
    for rate in _most(by_rate, lambda groups: sum(len(own) for own in groups.values()))[:1]:
        means = {
            method: found.mean for method, own in by_rate[rate].items() if (found := spread(values(own, "cosine")))
        }
        parts = [f"{method} {three(mean)}" for method, mean in sorted(means.items(), key=lambda entry: -entry[1])]
        order = spread(floors(across).get(("sft", rate, ORDER), []))
        beside = f"a repeat run of sft {three(order.mean)}" if order else "no repeat run to calibrate them"
        return (
            f"Mean cosine to sft at lr {learning_rate(rate)}: {named(parts, MOST_LISTED)}; {beside}." if parts else ""
        )
    return ""


def _accuracy_lead(many: Many, scores: pl.DataFrame) -> str:
    """Mean differences to the base at the rate with the most trainings, and in how many of them one is shown."""
    own = once(scores.filter(pl.col("benchmark") == many.benchmark))
    known = [row for row in own if row["method"] not in REFERENCES and row["difference"] is not None]
    by_rate: dict[float, dict[str, Rows]] = {}
    for (method, rate, _), rows in by_method(known, many).items():
        by_rate.setdefault(rate, {}).setdefault(method, []).extend(rows)
    for rate in _most(by_rate, lambda groups: sum(len(rows) for rows in groups.values()))[:1]:
        parts = []
        for method, rows in by_rate[rate].items():
            found = spread(values(rows, "difference"))
            if found is not None:
                shown = sum(row["verdict"] in SHOWN for row in rows)
                parts.append(f"{method} {points(found.mean)} ({shown}/{len(rows)})")
        return (
            f"{benchmark_name(many.benchmark)} accuracy at lr {learning_rate(rate)}, mean points against the base "
            f"(trainings in which a test shows it): {named(parts, MOST_LISTED)}."
        )
    return ""


def _warnings(many: Many, scores: pl.DataFrame) -> Iterator[str]:
    bases = sorted(set(many.bases))
    if len(bases) > 1:
        labels = [[s.label for s, own in zip(many.studies, many.bases, strict=True) if own == base] for base in bases]
        who = [f"base {base + 1} ({named(own, 4)})" for base, own in zip(bases, labels, strict=True)]
        yield (
            f"Different bases: {listed(who)}. Their updates have no common coordinates, so no geometry is taken across "
            "them: only numbers that were measured within a study are pooled."
        )
    keys = list(dict.fromkeys(key for method in many.methods for key in many.differing(method)))
    if keys:
        yield (
            f"More than seeds and learning rates differ between trainings of one method: {named(keys, MOST_LISTED)}. "
            "Rows are kept apart by it and never pooled; the table of settings says which study has what."
        )
    without = [study.label for study in many.studies if not study.tables.accuracy.filter(method="base").height]
    if without:
        yield f"The base was not evaluated in {named(without, 4)}: no accuracy there can be called a gain or a loss."
    own = scores.filter(pl.col("benchmark") == many.benchmark)
    missing = [study.label for study in many.studies if study.label not in set(own["study"])]
    if missing:
        yield f"{benchmark_name(many.benchmark)} was not evaluated in {named(missing, 4)}: its accuracies lack them."
    if own["n"].n_unique() > 1:
        yield (
            f"The studies asked {span(own['n'].to_list(), 0)} {in_sentence(many.benchmark)} problems: their accuracies "
            "are over different sets."
        )


def _joined(many: Many) -> str:
    seeds = sorted({one.info.seed for one in many.distinct if one.info.seed is not None})
    rates = sorted({one.info.lr for one in many.distinct if one.info.lr is not None})
    bases = len(set(many.bases))
    shared = f" ({many.repeated} rows of later studies are trainings that an earlier one has)" if many.repeated else ""
    return (
        f"{len(many.studies)} studies on {bases} base{'s' if bases > 1 else ''}, {len(many.distinct)} distinct "
        f"trainings of {len(many.methods)} methods{shared}; initialisation seeds {listed(list(map(str, seeds)))}; "
        f"learning rates {listed([learning_rate(rate) for rate in rates])}."
    )


def _accuracy(many: Many, scores: pl.DataFrame) -> Iterator[str]:
    own = once(scores.filter(pl.col("benchmark") == many.benchmark))
    bases = [row["accuracy"] for row in own if row["method"] == "base"]
    groups = by_method([row for row in own if row["method"] not in REFERENCES and row["difference"] is not None], many)
    if not groups or not bases:
        return
    by_rate: dict[float, list[tuple[str, Rows]]] = {}
    for (method, lr, condition), rows in groups.items():
        words = f", {said}" if (said := many.condition(condition)) else ""
        by_rate.setdefault(lr, []).append((f"{method}{words}", rows))
    for lr in _most(by_rate, lambda named_rows: sum(len(rows) for _, rows in named_rows)):
        start = f"{benchmark_name(many.benchmark)} accuracy at lr {learning_rate(lr)} against the base "
        start += f"({span([100 * value for value in bases], 1)} %)"
        shown = {name: sum(row["verdict"] in SHOWN for row in rows) for name, rows in by_rate[lr]}
        parts = [
            f"{name} {_ranged(rows)}, shown in {shown[name]} of {len(rows)}"
            for name, rows in by_rate[lr]
            if shown[name]
        ]
        without = _undecided([(name, rows) for name, rows in by_rate[lr] if not shown[name]])
        if parts:
            means = "points, mean (range) over trainings and in how many of them the test shows a difference"
            yield f"{start}, {means}: {named(parts, MOST_LISTED)}{f'; {without}' if without else ''}."
        else:
            yield f"{start}: {without}."


def _undecided(named_rows: list[tuple[str, Rows]]) -> str:
    """Methods without a difference in any of their trainings, in one clause; empty where there are none."""
    if not named_rows:
        return ""
    rows = [row for _, own in named_rows for row in own]
    found = {name: sum(row["verdict"] == verdict for row in rows)
             for name, verdict in ((EQUAL, EQUAL), ("without power", NO_POWER))}  # fmt: skip
    told = [f"{'all' if n == len(rows) else n} {name}" for name, n in found.items() if n]
    return (
        f"no difference is shown in any of {count(len(rows), 'training')} of "
        f"{named([name for name, _ in named_rows], MOST_LISTED)}, on average {_ranged(rows)} points"
        f"{', ' if told else ''}{listed(told)}"
    )


_Of = TypeVar("_Of")


def _most(by_rate: Mapping[float, _Of], size: Callable[[_Of], int]) -> list[float]:
    """The learning rates with the most behind them, highest first."""
    return sorted(sorted(by_rate, key=lambda rate: -size(by_rate[rate]))[:_MOST_RATES], reverse=True)


def _ranged(rows: Rows) -> str:
    found = spread(values(rows, "difference"))
    assert found is not None
    return points(found.mean) if found.n == 1 else f"{points(found.mean)} ({found.range(points)})"


def _directions(many: Many, pairs: pl.DataFrame, across: pl.DataFrame) -> Iterator[str]:
    """Cosine to SFT at one rate, with SFT's own floors beside; the rates with the most pairs first."""
    by_rate: dict[float, list[tuple[tuple[str, float, int], Rows]]] = {}
    for (method, other, lr, rate, condition), own in between(pairs, many).items():
        if other == "sft":
            by_rate.setdefault(rate, []).append(((method, lr, condition), own))
    known = floors(across)
    for rate in _most(by_rate, lambda groups: sum(len(own) for _, own in groups)):
        parts = []
        for (method, lr, condition), own in by_rate[rate]:
            words = many.condition(condition)
            aside = "" if math.isclose(lr, rate) else f" at lr {learning_rate(lr)}"
            parts.append(
                f"{method}{aside}{f' ({words})' if words else ''} {told(spread(values(own, 'cosine')), three)}"
            )
            if apart := spread(values(crossed(pairs, own), "cosine")):
                parts[-1] += f" (across data orders {told(apart, three)})"
        order = spread(known.get(("sft", rate, ORDER), []))
        beside = (
            f"SFT beside itself in another data order has {told(order, three)}"
            if order
            else "no SFT of that rate in another data order was measured, so there is no floor to hold them against"
        )
        yield f"Cosine to SFT at lr {learning_rate(rate)}: {named(parts, MOST_LISTED)}; {beside}."


def _noise(across: pl.DataFrame) -> str:
    """Initialisation floors over all methods, same method, same rate."""
    parts = []
    for kind in (INITIALISATION, BOTH):
        own = across.filter(pl.col("differs") == kind).to_dicts()
        found = [row for row in own if row["cosine"] is not None]
        if found:
            left, right = (told(spread(values(found, f"{side}1_overlap")), three) for side in "uv")
            methods = len({row["method"] for row in found})
            parts.append(
                f"from another {kind.replace('data order and ', '')}{' and data order' if kind == BOTH else ''} "
                f"{told(spread(values(found, 'cosine')), three)} over {count(methods, 'method')}, "
                f"|u1 u1'| {left}, |v1 v1'| {right}"
            )
    return f"The same method beside itself, cosine: {'; '.join(parts)}." if parts else ""


def _rates(many: Many, runs: pl.DataFrame, across: pl.DataFrame) -> Iterator[str]:
    """A sentence a step: SFT first, then over all methods."""
    steps = rate_steps(many, runs, across)
    for low, high in sorted({(low, high) for _, low, high, _ in steps}):
        own = {key: rows for key, rows in steps.items() if key[1:3] == (low, high)}
        methods = {method for method, *_ in own}
        sft = [row for (method, *_), rows in own.items() if method == "sft" for row in rows]
        every = [row for rows in own.values() for row in rows]
        groups = [("sft", sft)] if sft else []
        groups += [(_who(methods), every)] if methods != {"sft"} else []
        parts = [
            f"{who}: norm x{told(spread(values(rows, 'growth')), two)} for each factor of 10, cosine of the two "
            f"{told(spread(values(rows, 'cosine')), three)}"
            for who, rows in groups
        ]
        yield f"From lr {learning_rate(low)} to {learning_rate(high)}, {'; '.join(parts)}."


def _who(methods: set[str]) -> str:
    return next(iter(methods)) if len(methods) == 1 else f"over {len(methods)} methods"


def _dpo(many: Many, runs: pl.DataFrame, scores: pl.DataFrame) -> Iterator[str]:
    """Matched and unmatched DPO in one sentence; or that one of the two is missing."""
    own = [row for row in runs.to_dicts() if row["method"] == "dpo" and row["reference_lr"]]
    if not own:
        return
    known = {(row["study"], row["run"]): row for row in scores.filter(pl.col("benchmark") == many.benchmark).to_dicts()}
    parts, seen = [], set()
    for (lr, reference), rows in sorted(grouped(own, "lr", "reference_lr").items(), reverse=True):
        rows = list({row["training"]: row for row in rows}.values())
        matched = math.isclose(lr, reference)
        seen.add(matched)
        scored = [known[key] for row in rows if (key := (row["study"], row["run"])) in known]
        where = (
            f"at SFT's lr {learning_rate(lr)}" if matched else f"at lr {learning_rate(lr)}, {lr / reference:g} x SFT's,"
        )
        parts.append(
            f"{where} {told(spread(values(scored, 'difference')), points)} points against the base, norm "
            f"{told(spread(values(rows, 'norm_over_sft')), _SMALL)} of SFT's, cosine to SFT "
            f"{told(spread(values(rows, 'cosine_to_sft')), three)}"
        )
    lack = {
        True: "",
        False: " DPO at SFT's learning rate is in none of these studies: --set matched=dpo trains it.",
    }
    yield f"DPO {'; '.join(parts[:_MOST_DPO])}.{lack[True in seen]}"


def _paths(midpoints: pl.DataFrame) -> str:
    own = [row for row in midpoints.to_dicts() if row["midpoint"] is not None]
    parts = [
        f"{kind} {told(spread(values(rows, 'midpoint')), _SMALL)}" for (kind,), rows in grouped(own, "differs").items()
    ]
    return (
        "Half-way between two trainings of one method the solutions' cross-entropy less the mean of its ends, nats a "
        f"token: other {', other '.join(parts)}."
        if parts
        else ""
    )


def _claims(many: Many) -> Iterator[str]:
    every = [one for one in joined_claims(many) if not one.first["open"]]
    if not every:
        return
    twice = [one for one in every if one.measured > 1]
    agreed = {verdict: sum(one.agreed == verdict for one in twice) for verdict in (HOLDS, FAILS, NO_POWER)}
    divided = [one for one in twice if one.agreed is None]
    once_only, never = sum(one.measured == 1 for one in every), sum(not one.measured for one in every)
    yield (
        f"Of {len(every)} claims of the paper, {len(twice)} were measured in more than one study: {agreed[HOLDS]} "
        f"hold in all that measured them, {agreed[FAILS]} hold in none, {agreed[NO_POWER]} are without power in all, "
        f"{len(divided)} are judged differently from study to study; {once_only} were measured in one study "
        f"only, {never} in none."
    )
