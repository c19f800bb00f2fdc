"""A study's noise floors and headline as numbers, for ``study.json``; None stands for what was not measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from tasks.reporting.estimates import Estimate, Spread
from tasks.reporting.tables.functions import depths, depths_apart, divergences
from tasks.reporting.views.floors import KINDS, ORDER
from tasks.reporting.views.pairs import Geometry
from tasks.reporting.views.paths import largest
from tasks.reporting.views.same_method import accuracy_apart, loss_apart, sampled_apart
from tasks.reporting.views.similarity import lowest_pair, lowest_replicate
from tasks.reporting.views.study import Study


def noise_floor(view: Geometry) -> dict[str, Any]:
    """``cosine`` and ``pairs`` of the data order, which judge pairs of one initialisation; then both floors, measure
    by measure: number of pairs, lowest, mean, highest. None: not measured."""
    measures = sorted({(metric, k) for _, _, metric, k in view.values}, key=lambda key: (key[0], key[1] or 0))
    return {
        "cosine": view.floor,
        "pairs": view.replicate_pairs[ORDER],
        **{kind: _floor(view, kind, measures) if view.replicate_pairs[kind] else None for kind in KINDS},
    }


def single_floors(study: Study) -> dict[str, Any]:
    """How far runs of one method are apart in accuracy, sampled scores (shares), answer loss and logit-lens depth.

    For each kind of floor the number of pairs, the largest difference and the standard deviation of a single run.
    """
    names = study.benchmarks
    scores = study.samples.select("benchmark", "metric", "k").unique(maintain_order=True).rows()
    sampled = [
        {"benchmark": name, "metric": metric, "k": k, **_kinds(sampled_apart(study, name, metric, k))}
        for name, metric, k in scores
    ]
    return {
        "accuracy": {name: _kinds(accuracy_apart(study, name)) for name in names},
        "answer_loss": {name: _kinds(loss_apart(study, name)) for name in names},
        "samples": sampled,
        "depth": _kinds(depths_apart(study)),
    }


def _kinds(found: Mapping[str, Spread]) -> dict[str, Any]:
    known = {kind: {"n": one.n, "highest": one.largest, "sd": one.sd_of_one} for kind, one in found.items()}
    return {kind: known.get(kind) for kind in KINDS}


def range_of(floor: Spread) -> dict[str, float]:
    """A floor as it stands in a record."""
    return {"n": floor.n, "lowest": floor.lowest, "mean": floor.mean, "highest": floor.highest}


def _floor(view: Geometry, kind: str, measures: list[tuple[str, int | None]]) -> dict[str, Any]:
    found = [(metric, k, view.floor_of(kind, metric, k)) for metric, k in measures]
    rows = [{"metric": metric, "k": k, **range_of(floor)} for metric, k, floor in found if floor is not None]
    return {"pairs": view.replicate_pairs[kind], "measures": rows}


def headline_numbers(study: Study) -> dict[str, Any]:
    """Accuracy and its verdict by benchmark and run, largest barriers, lowest CKA, depths and divergences."""
    base = study.base.run
    found = divergences(study.divergence)
    return {
        "accuracy": {benchmark: _accuracy(study, benchmark) for benchmark in study.benchmarks},
        "barriers": _barriers(study),
        "cka": _cka(study),
        "lens_depth": depths(study.lens) or None,
        "kl_base_run": {run: _interval(value) for (a, run), value in found.items() if a == base} or None,
        "kl_run_base": {run: _interval(value) for (run, b), value in found.items() if b == base} or None,
    }


def _interval(found: Estimate) -> dict[str, Any]:
    return {"value": found.value, "low": found.low, "high": found.high}


def _accuracy(study: Study, benchmark: str) -> dict[str, Any]:
    base = study.base.run
    rows = {}
    for info in study.ordered:
        found, against = study.score(info.run, benchmark), study.versus(info.run, base, benchmark)
        if found is not None:
            rows[info.run] = {**asdict(found), "against_base": asdict(against) if against else None}
    return rows


def _barriers(study: Study) -> dict[str, Any] | None:
    paths = study.paths
    found = {reading: largest(paths, study.geometry, reading) for reading in paths.readings}
    return {
        reading: {**asdict(extreme), "floor": range_of(extreme.floor) if extreme.floor else None}
        for reading, extreme in found.items()
        if extreme
    } or None


def _cka(study: Study) -> dict[str, Any] | None:
    view = study.geometry
    found = study.similarity
    if found is None:
        return None
    ends = {"lowest": lowest_pair(found, view), "noise_floor": lowest_replicate(found, view)}
    places = {name: {"run": end[0], "other": end[1], **asdict(end[2])} if end else None for name, end in ends.items()}
    return {"pooling": found.pooling, "rows": found.rows, "estimator": "debiased", **places}
