"""The sentences at the top of a page of many studies, generated from the same rows as its tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tasks.reporting.estimates import spread
from tasks.reporting.findings.headline import Findings
from tasks.reporting.findings.sentences import ACCURACY, STUDIES
from tasks.reporting.formats import benchmark_name, in_sentence, learning_rate, listed, points, span
from tasks.reporting.many.direction_tables import three
from tasks.reporting.many.forgetting import forgetting_finding
from tasks.reporting.many.frames import ORDER
from tasks.reporting.many.joined import Many
from tasks.reporting.many.rows import Rows, once, values
from tasks.reporting.many.sweep import diverged_sentence
from tasks.reporting.notes import MOST_LISTED, named
from tasks.reporting.views.accuracy import SHOWN
from tasks.reporting.views.study import REFERENCES


def many_findings(many: Many) -> Findings:
    """Warnings; directions and accuracy for the first screen; what is joined and what diverged. The tables have the
    rest: one of them the questions that the paper leaves open."""
    lead = (_direction_lead(many), _accuracy_lead(many), *diverged_sentence(many.sweep))
    said = tuple(sentence for sentence in lead if sentence)
    found = ((ACCURACY, forgetting_finding(many)), (STUDIES, _joined(many)))
    return Findings(tuple(_warnings(many)), said, found)


def _direction_lead(many: Many) -> str:
    """Mean cosines to SFT at the rate that most pairs have, beside SFT's own repeat runs."""
    by_rate: dict[float, dict[str, Rows]] = {}
    for (method, other, _, rate, _), own in many.between.items():
        if other == "sft":
            by_rate.setdefault(rate, {}).setdefault(method, []).extend(own)
    if (usual := _usual(by_rate)) is None:
        return ""
    found = {method: spread(values(own, "cosine")) for method, own in by_rate[usual].items()}
    means = sorted(((-one.mean, method) for method, one in found.items() if one))
    parts = [f"{method} {three(-mean)}" for mean, method in means]
    order = spread(many.floors.get(("sft", usual, ORDER), []))
    beside = f"a repeat run of sft {three(order.mean)}" if order else "no repeat run to calibrate them"
    return f"Mean cosine to sft at lr {learning_rate(usual)}: {named(parts, MOST_LISTED)}; {beside}." if parts else ""


def _accuracy_lead(many: Many) -> str:
    """Mean differences to the base at the rate with the most trainings, and in how many of them one is shown."""
    own = once(many.headline)
    known = [row for row in own if row["method"] not in REFERENCES and row["difference"] is not None]
    by_rate: dict[float, dict[str, Rows]] = {}
    for (method, rate, _), rows in many.by_method(known).items():
        by_rate.setdefault(rate, {}).setdefault(method, []).extend(rows)
    if (usual := _usual(by_rate)) is None:
        return ""
    parts = []
    for method, rows in by_rate[usual].items():
        if found := spread(values(rows, "difference")):
            shown = sum(row["verdict"] in SHOWN for row in rows)
            parts.append(f"{method} {points(found.mean)} ({shown}/{len(rows)})")
    return (
        f"{benchmark_name(many.benchmark)} accuracy at lr {learning_rate(usual)}, mean points against the base "
        f"(trainings in which a test shows it): {named(parts, MOST_LISTED)}."
    )


def _warnings(many: Many) -> Iterator[str]:
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
    without = [study.label for study in many.studies if not study.accuracy.filter(method="base").height]
    if without:
        yield f"The base was not evaluated in {named(without, 4)}: no accuracy there can be called a gain or a loss."
    own = many.headline
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


def _usual(by_rate: Mapping[float, Mapping[str, Rows]]) -> float | None:
    """The learning rate with the most behind it, the highest of equals; None where there is none."""
    return max(by_rate, key=lambda rate: (sum(map(len, by_rate[rate].values())), rate), default=None)
