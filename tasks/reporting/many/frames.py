"""The joined frames of runs and scores; beside them the studies' own with a column ``study``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl

from tasks.core.results import RunInfo
from tasks.reporting.many.joined import Many
from tasks.reporting.many.schemas import RUNS, SCORES
from tasks.reporting.many.studies import Study
from tasks.reporting.tables.functions import divergences
from tasks.reporting.views.join import SCHEMAS, benchmarks, ordered_runs, score, spectrum_value, trained_runs, versus

LEFT_OUT = ("items",)
"""Frames that stay with their studies: every answer's text is in them."""


def runs_frame(many: Many) -> pl.DataFrame:
    """One row a trained run of a study."""
    return pl.DataFrame(list(_runs(many)), schema=RUNS, orient="row")


def scores_frame(many: Many) -> pl.DataFrame:
    """One row a run (the base and the other references too) and benchmark."""
    return pl.DataFrame(list(_scores(many)), schema=SCORES, orient="row")


def joined_frames(many: Many) -> dict[str, pl.DataFrame]:
    """The studies' own frames, one below the other, with the column ``study`` in front."""
    return {
        name: pl.concat(
            [getattr(one.tables, name).select(pl.lit(one.label).alias("study"), pl.all()) for one in many.studies]
        )
        for name in SCHEMAS
        if name not in LEFT_OUT
    }


def reference_of(study: Study, info: RunInfo) -> RunInfo | None:
    """The SFT that a run is held against: of its study, from the same initialisation and order of the data."""
    reference = study.view.reference
    if reference is None or (reference.seed, reference.data_seed) != (info.seed, info.data_seed):
        return None
    return reference


def _identity(many: Many, place: int, info: RunInfo) -> tuple[Any, ...]:
    study, one = many.studies[place], many.trainings.get((place, info.run))
    repeated = one is not None and one.study != place
    if one is None:  # the base and its like: once for each base
        repeated = many.bases.index(many.bases[place]) != place
    columns = (info.run, info.method, info.seed, info.data_seed, info.lr)
    mark = (one.number, repeated) if one else (None, repeated)
    return (study.label, *columns, *mark, many.bases[place], one.condition if one else None)


def _runs(many: Many) -> Iterator[tuple[Any, ...]]:
    for place, study in enumerate(many.studies):
        tables, view = study.tables, study.view
        apart, paths = divergences(tables.divergence), tables.paths
        for info in trained_runs(tables):
            reference, kl = reference_of(study, info), apart.get((study.base, info.run))
            other = reference.run if reference and reference != info else None
            found = [paths.find(info.run, other, matched, "solution") for matched in (False, True)] if other else []
            yield (
                *_identity(many, place, info),
                view.reference.lr if view.reference else None,
                spectrum_value(tables.spectra, info.run, "norm"),
                spectrum_value(tables.spectra, info.run, "effective_rank"),
                view.cosine(info.run, other) if other else None,
                view.value(info.run, other, "norm_ratio") if other else None,
                kl.value if kl else None,
                *([one.value if one else None for one in found] or (None, None)),
            )


def _scores(many: Many) -> Iterator[tuple[Any, ...]]:
    for place, study in enumerate(many.studies):
        for info in ordered_runs(study.tables):
            for benchmark in benchmarks(study.tables):
                found = score(study.tables, info.run, benchmark)
                if found is None:
                    continue
                against = versus(study.tables, info.run, study.base, benchmark)
                names = ("difference", "low", "high", "p_value", "p_holm", "verdict")
                own = tuple(getattr(against, name) if against else None for name in names)
                values = (found.n, found.accuracy, found.low, found.high)
                yield (*_identity(many, place, info), benchmark, *values, *own)
