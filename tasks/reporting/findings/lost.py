"""Sentences on dropped rollouts and missing measurements."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import polars as pl

from tasks.reporting.formats import in_sentence, learning_rate, listed
from tasks.reporting.notes import count
from tasks.reporting.views.floors import INITIALISATION
from tasks.reporting.views.join import StudyTables, benchmarks, spectrum_value, trained_runs
from tasks.reporting.views.pairs import Geometry


def dropped_rows(rollouts: dict[str, Any]) -> dict[str, int]:
    """Rule -> rows that it dropped, from a ``dropped`` that is one count or a count a rule."""
    dropped = rollouts.get("dropped")
    if isinstance(dropped, dict):
        return {str(rule): number for rule, number in dropped.items() if number}
    return {"rows": dropped} if dropped else {}


def lost(tables: StudyTables) -> str:
    """Answers and rows that fell out on the way, the worst run of each kind."""
    parts = []
    for column, what in (("unparsed", "had no answer to read"), ("truncated", "were cut at the token limit")):
        worst = tables.accuracy.filter(pl.col(column) > 0).sort(pl.col(column) / pl.col("n"), descending=True)
        if worst.height:
            row = worst.row(0, named=True)
            where = f"{row['run']}, {in_sentence(row['benchmark'])} problems"
            parts.append(f"up to {row[column]} of {row['n']} answers {what} ({where})")
    golds = {name: number for name, number in (tables.study.get("unparsed_golds") or {}).items() if number}
    if golds:
        where = listed([f"{in_sentence(name)}: {number}" for name, number in golds.items()])
        unread = count(sum(golds.values()), "problem")
        parts.append(f"the gold answer of {unread} could not be read ({where}), so no answer counts as right there")
    dropped = dropped_rows(tables.rollouts)
    if dropped:
        rules = listed([rule if rule == "rows" else f"{rule}: {number}" for rule, number in dropped.items()])
        parts.append(f"{sum(dropped.values())} rollout rows were dropped" + ("" if rules == "rows" else f" ({rules})"))
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def not_measured(tables: StudyTables, view: Geometry) -> str:
    """What a reader might look for and will not find."""
    runs = trained_runs(tables)
    couples = [(a.run, b.run) for a, b in combinations(runs, 2)]
    missing = sum(view.cosine(a, b) is None for a, b in couples)
    losses = tables.accuracy["answer_loss"]
    evaluated = benchmarks(tables)
    absent = {
        "accuracy": not evaluated,
        "a second benchmark": len(evaluated) == 1,
        "answer loss": losses.null_count() == losses.len(),
        "sampled scores (avg@k, pass@k, maj@k)": tables.samples.is_empty(),
        "differences in avg@k": tables.differences.is_empty() and not tables.samples.is_empty(),
        "the noise floor of the data order": view.floor is None,
        "the noise floor of the initialisation": view.floor_of(INITIALISATION, "cosine") is None,
        f"{missing} of {len(couples)} cosines between runs": missing > 0,
        "principal angles": not view.ks,
        "norms and effective ranks": all(spectrum_value(tables.spectra, info.run, "norm") is None for info in runs),
        "training losses": tables.training.is_empty(),
        "paths between the updates": tables.connectivity.is_empty(),
        "barriers": tables.barriers["barrier"].count() == 0,
        "CKA of hidden states": tables.cka["value"].count() == 0,
        "logit-lens depth": tables.lens.filter(metric="depth")["value"].count() == 0,
        "divergences of the output distributions": tables.divergence["value"].count() == 0,
        "spread over learning rates": all(
            len({info.lr for info in runs if info.method == method}) < 2 for method in {info.method for info in runs}
        ),
    }
    names = [name for name, is_absent in absent.items() if is_absent]
    sentence = f"Not measured: {listed(names)}." if names else ""
    return f"{sentence} {_rates(tables) if absent['spread over learning rates'] else ''}".strip()


def _rates(tables: StudyTables) -> str:
    """Says where method and learning rate change together."""
    runs = trained_runs(tables)
    rates = {method: next(i.lr for i in runs if i.method == method) for method in dict.fromkeys(i.method for i in runs)}
    if len(set(rates.values())) < 2:
        return ""
    usual = max(set(rates.values()), key=list(rates.values()).count)
    others = [f"{method} ({learning_rate(lr)})" for method, lr in rates.items() if lr != usual]
    return (
        f"Learning rates differ: {listed(others)} against {learning_rate(usual)} for the others, so method and "
        "learning rate cannot be distinguished there."
    )
