"""The headline of a study as numbers, for ``study.json``; None stands for what was not measured."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from tasks.reporting.estimates import Estimate
from tasks.reporting.publish.noise import range_of
from tasks.reporting.tables.functions import depths, divergences
from tasks.reporting.views.join import StudyTables, base_of, benchmarks, ordered_runs, score, versus
from tasks.reporting.views.pairs import Geometry
from tasks.reporting.views.paths import largest
from tasks.reporting.views.similarity import lowest_pair, lowest_replicate


def headline_numbers(tables: StudyTables, view: Geometry) -> dict[str, Any]:
    """Accuracy and its verdict by benchmark and run, largest barriers, lowest CKA, depths and divergences."""
    base = base_of(tables).run
    found = divergences(tables.divergence)
    return {
        "accuracy": {benchmark: _accuracy(tables, benchmark) for benchmark in benchmarks(tables)},
        "barriers": _barriers(tables, view),
        "cka": _cka(tables, view),
        "lens_depth": depths(tables.lens) or None,
        "kl_base_run": {run: _interval(value) for (a, run), value in found.items() if a == base} or None,
        "kl_run_base": {run: _interval(value) for (run, b), value in found.items() if b == base} or None,
    }


def _interval(found: Estimate) -> dict[str, Any]:
    return {"value": found.value, "low": found.low, "high": found.high}


def _accuracy(tables: StudyTables, benchmark: str) -> dict[str, Any]:
    base = base_of(tables).run
    rows = {}
    for info in ordered_runs(tables):
        found, against = score(tables, info.run, benchmark), versus(tables, info.run, base, benchmark)
        if found is not None:
            rows[info.run] = {**asdict(found), "against_base": asdict(against) if against else None}
    return rows


def _barriers(tables: StudyTables, view: Geometry) -> dict[str, Any] | None:
    paths = tables.paths
    found = {reading: largest(paths, view, reading) for reading in paths.readings}
    return {
        reading: {**asdict(extreme), "floor": range_of(extreme.floor) if extreme.floor else None}
        for reading, extreme in found.items()
        if extreme
    } or None


def _cka(tables: StudyTables, view: Geometry) -> dict[str, Any] | None:
    found = tables.similarity
    if found is None:
        return None
    ends = {"lowest": lowest_pair(found, view), "noise_floor": lowest_replicate(found, view)}
    places = {name: {"run": end[0], "other": end[1], **asdict(end[2])} if end else None for name, end in ends.items()}
    return {"pooling": found.pooling, "rows": found.rows, "estimator": "debiased", **places}
