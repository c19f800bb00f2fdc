"""The joined frames, one row a run, a score or a pair; beside them the studies' own with a column ``study``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import polars as pl

from tasks.core.results import RunInfo
from tasks.reporting.many.studies import NamedStudy
from tasks.reporting.metrics import FORGETTING, INVERSE, MANY, OWN_KL, Metric, pair_metric
from tasks.reporting.tables.functions import divergences
from tasks.reporting.tables.retention import kept
from tasks.reporting.views.floors import KINDS, kind_of
from tasks.reporting.views.pairs import EVERYTHING
from tasks.reporting.views.paths import midpoint, paths_of
from tasks.reporting.views.study import SCHEMAS

if TYPE_CHECKING:
    from tasks.reporting.many.joined import Many, Training

ORDER, INITIALISATION = KINDS.values()
BOTH = f"{ORDER} and {INITIALISATION}"
FLOORS = (ORDER, INITIALISATION, BOTH)
"""What two trainings of one method differ in that measure a noise floor."""

LEFT_OUT = ("items",)
"""Frames that stay with their studies: every answer's text is in them."""

_IDENTITY: dict[str, pl.DataType] = {
    "study": pl.String(),
    "run": pl.String(),
    "method": pl.String(),
    "seed": pl.Int64(),
    "data_seed": pl.Int64(),
    "lr": pl.Float64(),
    "training": pl.Int64(),  # one number a distinct training: the same in every study that has it; null: not trained
    "repeated": pl.Boolean(),  # an earlier study has this training: leave it out of a spread
    "base": pl.Int64(),  # studies of one number have one base
    "condition": pl.Int64(),  # all that decides a training but its seeds and its learning rate
}

_METRICS: dict[str, pl.DataType] = {metric.column: pl.Float64() for metric in MANY}
"""``angle``: of the first left singular vectors, degrees, median over modules; the others by their names."""

RUNS: dict[str, pl.DataType] = {
    **_IDENTITY,
    "reference_lr": pl.Float64(),  # of the SFT of its study
    "norm": pl.Float64(),
    "effective_rank": pl.Float64(),
    "cosine_to_sft": pl.Float64(),  # of its study, the same seeds; null for runs of other seeds
    "norm_over_sft": pl.Float64(),
    "kl_from_base": pl.Float64(),  # nats a token
    "own_kl": pl.Float64(),  # the same on the base's own answers
    "forgetting": pl.Float64(),  # nats a token
    "barrier_to_sft": pl.Float64(),  # solution reading, nats a token
    "barrier_to_sft_matched": pl.Float64(),  # both updates at one norm
}

SCORES: dict[str, pl.DataType] = {
    **_IDENTITY,
    "benchmark": pl.String(),
    "n": pl.Int64(),
    "accuracy": pl.Float64(),
    "low": pl.Float64(),
    "high": pl.Float64(),
    "difference": pl.Float64(),  # against the base, paired, share
    "difference_low": pl.Float64(),  # 95 %, of these two models
    "difference_high": pl.Float64(),
    "p_value": pl.Float64(),  # exact
    "p_holm": pl.Float64(),  # over the main runs of its study; null for a replicate and for what no study trains
    "verdict": pl.String(),
}

PAIRS: dict[str, pl.DataType] = {
    "study": pl.String(),
    "run_a": pl.String(),
    "run_b": pl.String(),
    "method_a": pl.String(),
    "method_b": pl.String(),
    "lr_a": pl.Float64(),
    "lr_b": pl.Float64(),
    "training_a": pl.Int64(),
    "training_b": pl.Int64(),
    "condition": pl.Int64(),
    "repeated": pl.Boolean(),
    "one_start": pl.Boolean(),  # the same seed and data seed
    "two_orders": pl.Boolean(),  # the same seed, another data seed: what a noise floor of the data order judges
    "floor": pl.String(),  # the noise floor that it measures: "order", "initialisation" or null
    **_METRICS,  # of a against b
    "null_cosine": pl.Float64(),
    "midpoint": pl.Float64(),  # of the path between them, solution reading, above the mean of its ends, nats a token
    "barrier": pl.Float64(),
}

ACROSS: dict[str, pl.DataType] = {
    "method": pl.String(),
    "differs": pl.String(),  # what the two trainings differ in: "data order", "initialisation", "learning rate", ...
    "within": pl.String(),  # the study that has both; null: two studies
    "a": pl.String(),
    "b": pl.String(),
    "training_a": pl.Int64(),
    "training_b": pl.Int64(),
    "lr_a": pl.Float64(),
    "lr_b": pl.Float64(),
    **_METRICS,  # a ratio of norms is that of b over a
    "lora_a_cosine": pl.Float64(),
    "low": pl.Float64(),  # of the cosine
    "high": pl.Float64(),
}

MIDPOINTS: dict[str, pl.DataType] = {
    "method": pl.String(),
    "lr": pl.Float64(),
    "differs": pl.String(),  # as in ACROSS: the noise floor that the path measures
    "a": pl.String(),
    "b": pl.String(),
    "midpoint": pl.Float64(),  # solution reading, above the mean of its ends, nats a token
    "barrier": pl.Float64(),
}


def joined_frames(many: Many) -> dict[str, pl.DataFrame]:
    """The studies' own frames, one below the other, with the column ``study`` in front."""
    return {
        name: pl.concat([getattr(one, name).select(pl.lit(one.label).alias("study"), pl.all()) for one in many.studies])
        for name in SCHEMAS
        if name not in LEFT_OUT
    }


def reference_of(study: NamedStudy, info: RunInfo) -> RunInfo | None:
    """The SFT that a run is held against: of its study, from the same initialisation and order of the data."""
    reference = study.geometry.reference
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


def run_rows(many: Many) -> Iterator[tuple[Any, ...]]:
    for place, study in enumerate(many.studies):
        view, paths, apart = study.geometry, study.paths, divergences(study.divergence)
        own = [kept(study, name) for name in (OWN_KL.name, FORGETTING.name)]
        for info in study.trained:
            reference, kl = reference_of(study, info), apart.get((study.base.run, info.run))
            other = reference.run if reference and reference != info else None
            found = [paths.find(info.run, other, matched, "solution") for matched in (False, True)] if other else []
            yield (
                *_identity(many, place, info),
                view.reference.lr if view.reference else None,
                study.spectrum(info.run, "norm"),
                study.spectrum(info.run, "effective_rank"),
                view.cosine(info.run, other) if other else None,
                view.value(info.run, other, "norm_ratio") if other else None,
                kl.value if kl else None,
                *(one[info.run].value if info.run in one else None for one in own),
                *([one.value if one else None for one in found] or (None, None)),
            )


def score_rows(many: Many) -> Iterator[tuple[Any, ...]]:
    for place, study in enumerate(many.studies):
        for info in study.ordered:
            for benchmark in study.benchmarks:
                found = study.score(info.run, benchmark)
                if found is None:
                    continue
                against = study.versus(info.run, study.base.run, benchmark)
                names = ("difference", "low", "high", "p_value", "p_holm", "verdict")
                own = tuple(getattr(against, name) if against else None for name in names)
                values = (found.n, found.accuracy, found.low, found.high)
                yield (*_identity(many, place, info), benchmark, *values, *own)


_MEASURED = (*MANY, pair_metric("lora_a_cosine"))
"""The metrics of ACROSS, in the order of its columns."""


def differences(a: Training, b: Training, many: Many) -> list[str]:
    """What two trainings of one method differ in, in words; settings by their keys."""
    words = ["data order"] if a.info.data_seed != b.info.data_seed else []
    words += ["initialisation"] if a.info.seed != b.info.seed else []
    words += ["learning rate"] if a.info.lr != b.info.lr else []
    if a.condition != b.condition:
        (_, mine), (_, theirs) = many.conditions[a.condition], many.conditions[b.condition]
        words += [key for key in dict.fromkeys([*mine, *theirs]) if mine.get(key) != theirs.get(key)]
    return words


def pair_rows(many: Many) -> Iterator[tuple[Any, ...]]:
    seen: set[tuple[int, ...]] = set()
    for place, study in enumerate(many.studies):
        paths = study.paths
        for a, b in combinations(study.trained, 2):
            one, two = many.trainings[place, a.run], many.trainings[place, b.run]
            names, key = (a.run, b.run), tuple(sorted((one.number, two.number)))
            barrier = paths.find(*names, False, "solution")
            yield (
                study.label, *names, a.method, b.method, a.lr, b.lr, one.number, two.number, one.condition,
                key in seen, (a.seed, a.data_seed) == (b.seed, b.data_seed),
                a.seed == b.seed and a.data_seed != b.data_seed,
                kind_of(a, b, study.geometry.value(*names, "lora_a_cosine")),
                *_values(study, MANY, *names), study.geometry.estimate(*names, "cosine").null,
                midpoint(study.connectivity, *names),
                barrier.value if barrier else None,
            )  # fmt: skip
            seen.add(key)


def _values(study: NamedStudy, metrics: Sequence[Metric], a: str, b: str) -> list[float | None]:
    return [study.geometry.value(a, b, metric.name, _k(metric)) for metric in metrics]


def across_frame(many: Many) -> pl.DataFrame:
    """Pairs of distinct trainings of one method (ACROSS): those within a study, then those measured across."""
    rows: dict[tuple[int, ...], tuple[Any, ...]] = {}
    for place, study in enumerate(many.studies):
        for a, b in combinations(study.trained, 2):
            one, two = sorted((many.trainings[place, run.run] for run in (a, b)), key=_rank)
            names = (a.run, b.run) if many.trainings[place, a.run] is one else (b.run, a.run)
            if a.method == b.method:
                cosine = study.geometry.estimate(*names, "cosine")
                values = _values(study, _MEASURED, *names)
                row = _row(many, one, two, values, (cosine.low, cosine.high), study.label)
                rows.setdefault((one.number, two.number), row)
    known = {one.number: one for one in many.distinct}
    for (a_name, b_name), found in _by_pair(many.measured).items():
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


def paths_frame(
    pairs: Sequence[tuple[RunInfo, RunInfo]], connectivity: pl.DataFrame | None, barriers: pl.DataFrame | None
) -> pl.DataFrame:
    """MIDPOINTS of paths that were read on the solutions. ``connectivity``, ``barriers``: as `tasks.core.frames`."""
    rows = []
    if connectivity is not None and barriers is not None:
        paths = paths_of(barriers)
        for a, b in pairs:
            barrier = paths.find(a.run, b.run, False, "solution")
            middle = midpoint(connectivity, a.run, b.run)
            rows.append((a.method, a.lr, _differs(a, b), a.run, b.run, middle, barrier.value if barrier else None))
    return pl.DataFrame(rows, schema=MIDPOINTS, orient="row")


def midpoints_frame(many: Many) -> pl.DataFrame:
    """MIDPOINTS of the page: a sweep's own paths, which are between all its seeds, else those within the studies."""
    if many.sweep is not None and many.sweep.paths.height:
        return many.sweep.paths
    own = many.pairs.filter(~pl.col("repeated"), pl.col("floor").is_not_null())
    kinds = pl.col("floor").replace_strict(KINDS, return_dtype=pl.String)
    name = [(pl.col("study") + ": " + pl.col(f"run_{end}")).alias(end) for end in "ab"]
    found = own.select(
        pl.col("method_a").alias("method"), pl.col("lr_a").alias("lr"), kinds.alias("differs"), *name, "midpoint",
        "barrier",
    )  # fmt: skip
    return found.filter(pl.col("midpoint").is_not_null() | pl.col("barrier").is_not_null())


def _differs(a: RunInfo, b: RunInfo) -> str:
    if a.seed == b.seed:
        return ORDER
    return INITIALISATION if a.data_seed == b.data_seed else BOTH
