"""The joined frames of pairs: those of one study, and those of one method, whichever studies its trainings are in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import polars as pl

from tasks.reporting.many.joined import Many, Training
from tasks.reporting.many.schemas import ACROSS, PAIRS
from tasks.reporting.many.studies import Study
from tasks.reporting.metrics import INVERSE, MANY, Metric, pair_metric
from tasks.reporting.views.floors import kind_of
from tasks.reporting.views.join import trained_runs
from tasks.reporting.views.pairs import EVERYTHING
from tasks.reporting.views.paths import midpoint

_MEASURED = (*MANY, pair_metric("lora_a_cosine"))
"""The metrics of ACROSS, in the order of its columns."""


def pairs_frame(many: Many) -> pl.DataFrame:
    """One row a pair of trained runs of one study."""
    return pl.DataFrame(list(_pairs(many)), schema=PAIRS, orient="row")


def differences(a: Training, b: Training, many: Many) -> list[str]:
    """What two trainings of one method differ in, in words; settings by their keys."""
    words = ["data order"] if a.info.data_seed != b.info.data_seed else []
    words += ["initialisation"] if a.info.seed != b.info.seed else []
    words += ["learning rate"] if a.info.lr != b.info.lr else []
    if a.condition != b.condition:
        (_, mine), (_, theirs) = many.conditions[a.condition], many.conditions[b.condition]
        words += [key for key in dict.fromkeys([*mine, *theirs]) if mine.get(key) != theirs.get(key)]
    return words


def _pairs(many: Many) -> Iterator[tuple[Any, ...]]:
    seen: set[tuple[int, ...]] = set()
    for place, study in enumerate(many.studies):
        paths = study.tables.paths
        for a, b in combinations(trained_runs(study.tables), 2):
            one, two = many.trainings[place, a.run], many.trainings[place, b.run]
            names, key = (a.run, b.run), tuple(sorted((one.number, two.number)))
            barrier = paths.find(*names, False, "solution")
            yield (
                study.label, *names, a.method, b.method, a.lr, b.lr, one.number, two.number, one.condition,
                key in seen, (a.seed, a.data_seed) == (b.seed, b.data_seed),
                a.seed == b.seed and a.data_seed != b.data_seed,
                kind_of(a, b, study.view.value(*names, "lora_a_cosine")),
                *_values(study, MANY, *names), study.view.estimate(*names, "cosine").null,
                midpoint(study.tables.connectivity, *names),
                barrier.value if barrier else None,
            )  # fmt: skip
            seen.add(key)


def _values(study: Study, metrics: Sequence[Metric], a: str, b: str) -> list[float | None]:
    return [study.view.value(a, b, metric.name, _k(metric)) for metric in metrics]


def across_frame(many: Many, measured: pl.DataFrame | None = None) -> pl.DataFrame:
    """Pairs of distinct trainings of one method (ACROSS): those within a study, then ``measured`` ones.

    ``measured``: PAIR_METRICS_FRAME whose runs are called by the numbers of their trainings; None: nothing was.
    """
    rows: dict[tuple[int, ...], tuple[Any, ...]] = {}
    for place, study in enumerate(many.studies):
        for a, b in combinations(trained_runs(study.tables), 2):
            one, two = sorted((many.trainings[place, run.run] for run in (a, b)), key=_rank)
            names = (a.run, b.run) if many.trainings[place, a.run] is one else (b.run, a.run)
            if a.method == b.method:
                cosine = study.view.estimate(*names, "cosine")
                values = _values(study, _MEASURED, *names)
                row = _row(many, one, two, values, (cosine.low, cosine.high), study.label)
                rows.setdefault((one.number, two.number), row)
    known = {one.number: one for one in many.distinct}
    for (a_name, b_name), found in _by_pair(measured).items():
        one, two = known[int(a_name)], known[int(b_name)]
        values = [found.get((metric.name, _k(metric)), (None,))[0] for metric in _MEASURED]
        ends = found.get(("cosine", None), (None, None, None))[1:]
        if _rank(one) > _rank(two):
            one, two, values = two, one, _turned(values)
        rows.setdefault((one.number, two.number), _row(many, one, two, values, ends, None))
    return pl.DataFrame(list(rows.values()), schema=ACROSS, orient="row")


def name_of(many: Many, one: Training) -> str:
    """A training by its study and its run."""
    return f"{many.studies[one.study].label}: {one.info.run}"


def _rank(one: Training) -> tuple[float, int]:
    """Of a pair the lower learning rate comes first, so that a ratio of norms is growth."""
    return (one.info.lr or 0.0, one.number)


def _row(
    many: Many, a: Training, b: Training, values: Sequence[float | None], ends: tuple[Any, ...], within: str | None
) -> tuple[Any, ...]:
    """Numbers of a against b; a ratio is turned, so that it reads as growth from a to b."""
    differs = " and ".join(differences(a, b, many)) or "nothing that is recorded"
    names = (name_of(many, a), name_of(many, b))
    return (a.info.method, differs, within, *names, a.number, b.number, a.info.lr, b.info.lr, *_turned(values), *ends)


def _turned(values: Sequence[float | None]) -> list[float | None]:
    """All metrics are symmetric but ratios."""
    inverse = [metric.turned == INVERSE for metric in _MEASURED]
    return [(1 / value if value else None) if turn else value for value, turn in zip(values, inverse, strict=True)]


def _k(metric: Metric) -> int | None:
    return 1 if metric.many and metric.many.ks == "first" else None


_Found = dict[tuple[str, int | None], tuple[Any, ...]]


def _by_pair(measured: pl.DataFrame | None) -> dict[tuple[str, str], _Found]:
    found: dict[tuple[str, str], _Found] = {}
    if measured is not None:
        columns = ["run_a", "run_b", "metric", "k", "value", "low", "high"]
        for a, b, metric, k, *rest in measured.filter(EVERYTHING).select(columns).iter_rows():
            found.setdefault((a, b), {})[metric, k] = tuple(rest)
    return found
