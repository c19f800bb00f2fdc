"""Do updates add? Sums and means of them beside what their single effects predict, as rows of strings."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import polars as pl

from tasks.core.results import EFFECT
from tasks.reporting.formats import benchmark_name, in_sentence, number, points, points_interval, significant
from tasks.reporting.metrics import FORGETTING, OWN_KL
from tasks.reporting.notes import MOST_LISTED, named
from tasks.reporting.tables.retention import kept
from tasks.reporting.tables.views import Cell, Cells, Table, said
from tasks.reporting.views.accuracy import MARGIN
from tasks.reporting.views.study import Study

TITLE = "Do updates add?"
ACCURACY, PLAIN, WEIGHTED = "accuracy", "cosine", "activation_cosine"


def soups_tables(study: Study) -> list[Table]:
    """One row a sum or mean of updates; none where nobody asked for one."""
    found = _found(study)
    if not found:
        return []
    header = (
        *("Soup", "Cosine of its parts", "Accuracy less the base's, points", "Predicted", "Less predicted"),
        *("KL(base || it), nats/token", "Predicted, orthogonal", "Less predicted", "Predicted by the cosine"),
        f"{FORGETTING.title}, {FORGETTING.unit}",
    )
    rows = []
    for name, measured in found.items():
        scores = measured[ACCURACY]
        kl, lost = measured.get("own_kl"), measured.get("forgetting")
        ends = points_interval(scores["apart_low"], scores["apart_high"])
        interval = Cell(points(scores["change"]), (points_interval(scores["low"], scores["high"]),))
        accuracy = (interval, points(scores["predicted"]), Cell(points(scores["apart"]), said(ends)))
        cosines = [cosine for pair in combinations(scores["runs"], 2) if (cosine := _cosine(study, *pair)) is not None]
        divergence = (_nats(kl, "change"), significant(kl["predicted"] if kl else None), _nats(kl, "apart"))
        expected = significant(by_cosine(study, scores["runs"], scores["weight"]))
        likeness = ", ".join(number(one, 3) for one in cosines) or "-"
        rows.append(Cells(name, likeness, *accuracy, *divergence, expected, _nats(lost, "change")))
    note = (
        f"{benchmark_name(study.primary)} problems, n = {max(one[ACCURACY]['n'] for one in found.values()):,}, greedy "
        "answers; the base with the sum, or the mean, of these runs' updates, an exact LoRA of their ranks together. "
        "Accuracy is predicted to first order: by the sum, or the mean, of the single changes. The divergence, on the "
        f"base's own answers ({OWN_KL.title}), is 0 at the base and has no first order: to second order that of "
        "orthogonal updates is the sum of the single ones, in a mean of two a quarter of it; updates of cosine c add "
        "2 c times the root of the two. That cosine is the activation-weighted one, where it was measured. Intervals: "
        "95 % over problems, paired, of these trainings. No soup is in a family of tests."
    )
    return [Table("soups", TITLE, header, rows, note)]


def by_cosine(study: Study, runs: list[str], weight: float) -> float | None:
    """The divergence that small updates with these cosines have, ``w^2 sum_ij c_ij sqrt(KL_i KL_j)``; None where one of
    them was not measured."""
    single = kept(study, OWN_KL.name)
    known = [single[run].value for run in runs if run in single]
    if len(known) < len(runs):
        return None
    roots = [math.sqrt(value or 0.0) for value in known]
    total = math.fsum(root**2 for root in roots)
    for (i, a), (j, b) in combinations(enumerate(runs), 2):
        if (cosine := _cosine(study, a, b, WEIGHTED) or _cosine(study, a, b)) is None:
            return None
        total += 2 * cosine * roots[i] * roots[j]
    return weight**2 * total


def soups_finding(study: Study) -> str:
    """For every sum and mean whether it changes the accuracy as predicted; empty where none was asked."""
    parts = []
    for name, measured in _found(study).items():
        row = measured[ACCURACY]
        change, predicted, apart = (points(row[one]) for one in ("change", "predicted", "apart"))
        ends = points_interval(row["apart_low"], row["apart_high"])
        parts.append(f"{name} {change}, predicted {predicted} (apart {apart} {ends}: {_verdict(row)})")
    if not parts or study.nobody_solves or study.unended(study.primary):
        return ""
    return (
        f"Sums and means of updates, {in_sentence(study.primary)} accuracy against the base in points, beside what the "
        f"single changes add up to: {named(parts, MOST_LISTED)}."
    )


def _verdict(row: dict[str, Any]) -> str:
    """By the interval of what is beyond the prediction."""
    low, high = row["apart_low"], row["apart_high"]
    if low is None:
        return "cannot be told"
    if low >= -EFFECT and high <= EFFECT:
        return f"adds within {MARGIN}"
    return "does not add" if low > 0 or high < 0 else "cannot be told"


def _found(study: Study) -> dict[str, dict[str, dict[str, Any]]]:
    """Soup -> measure -> its row of SOUPS; of accuracies that on the headline's benchmark."""
    own = study.soups.filter(pl.col("benchmark").is_null() | (pl.col("benchmark") == study.primary))
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in own.iter_rows(named=True):
        found.setdefault(row["soup"], {})[row["measure"]] = row
    return {name: measured for name, measured in found.items() if ACCURACY in measured}


def _cosine(study: Study, a: str, b: str, metric: str = PLAIN) -> float | None:
    return study.geometry.value(a, b, metric)


def _nats(row: dict[str, Any] | None, measure: str) -> Cell:
    """A change, or what of it is beyond the prediction, with its interval."""
    if row is None:
        return Cell(significant(None))
    low, high = ("low", "high") if measure == "change" else (f"{measure}_low", f"{measure}_high")
    ends = "" if row[low] is None else f"[{significant(row[low])}, {significant(row[high])}]"
    return Cell(significant(row[measure]), said(ends))
