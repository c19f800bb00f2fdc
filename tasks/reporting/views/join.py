"""What a study measured, joined: the tables of a report and the views of accuracy that are derived from them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import polars as pl

from tasks.core.frames import (
    ACCURACY,
    BARRIERS,
    CKA,
    CONNECTIVITY,
    DIFFERENCES,
    DIVERGENCE,
    GRADIENTS,
    ITEMS,
    LENS,
    MCNEMAR,
    PAIR_METRICS_FRAME,
    SAMPLES,
    SPECTRA,
    TRAINING,
    checked,
)
from tasks.core.results import DIFFERS, DIFFERS_LITTLE, EFFECT, LEVEL, NO_POWER, REFERENCE_METHODS, RunInfo

if TYPE_CHECKING:
    from tasks.reporting.views.pairs import Geometry
    from tasks.reporting.views.paths import Paths
    from tasks.reporting.views.similarity import Similarity

HELDOUT, HARD = "heldout", "hard"
REFERENCES = REFERENCE_METHODS
"""Methods of rows that no study trains: the base, always the first row, and the teacher, where it was evaluated."""

SHOWN = (DIFFERS, DIFFERS_LITTLE)
"""Verdicts of MCNEMAR that show a difference."""
MARGIN = f"{100 * EFFECT:g} points"
"""The smallest difference of interest as it reads."""

BASE_FAMILY = "base"
"""MCNEMAR's family of the methods' main runs against the base."""

NOT_JUDGED = "not judged"
"""In a verdict's place where the base's answers do not end: see `unended`."""
MOST_UNENDED = 0.5
"""Share of the base's greedy answers that may not end, beyond which its accuracy says where they were cut."""

NEAR_ZERO = 0.05
"""Accuracy (share) below which a model is taken not to solve a benchmark at all."""


SCHEMAS = {
    "accuracy": ACCURACY,
    "mcnemar": MCNEMAR,
    "items": ITEMS,
    "pair_metrics": PAIR_METRICS_FRAME,
    "spectra": SPECTRA,
    "training": TRAINING,
    "samples": SAMPLES,
    "differences": DIFFERENCES,
    "connectivity": CONNECTIVITY,
    "barriers": BARRIERS,
    "cka": CKA,
    "lens": LENS,
    "divergence": DIVERGENCE,
    "gradients": GRADIENTS,
}
"""A study's frames, by the name of their file."""


def _empty(name: str) -> pl.DataFrame:
    return pl.DataFrame(schema=SCHEMAS[name])


@dataclass(frozen=True)
class StudyTables:
    """Everything a report is made of. The frames are in the schemas of `tasks.core.frames`, empty where not
    measured.

    ``rollouts``: counts by name (``prompts``, ``rows``, ``correct``, ``mixed_groups``, ``dropped`` {rule: rows}, ...);
    a count may be None. ``study``: name, settings, versions, commit, mlflow, stages, wall_seconds, machine, checks,
    notes, training {run: {examples, epochs}}, unparsed_golds {benchmark: problems whose gold could not be read},
    benchmarks (a list of {name, n, source, template, shared_with_rollouts_dropped});
    a key that is missing prints as not recorded.
    """

    runs: list[RunInfo]
    accuracy: pl.DataFrame
    mcnemar: pl.DataFrame
    items: pl.DataFrame
    pair_metrics: pl.DataFrame
    spectra: pl.DataFrame
    training: pl.DataFrame
    rollouts: dict[str, Any]
    study: dict[str, Any]
    samples: pl.DataFrame = field(default_factory=partial(_empty, "samples"))
    differences: pl.DataFrame = field(default_factory=partial(_empty, "differences"))
    connectivity: pl.DataFrame = field(default_factory=partial(_empty, "connectivity"))
    barriers: pl.DataFrame = field(default_factory=partial(_empty, "barriers"))
    cka: pl.DataFrame = field(default_factory=partial(_empty, "cka"))
    lens: pl.DataFrame = field(default_factory=partial(_empty, "lens"))
    divergence: pl.DataFrame = field(default_factory=partial(_empty, "divergence"))
    gradients: pl.DataFrame = field(default_factory=partial(_empty, "gradients"))

    # Derived once, however many tables, figures and sentences read them. Imported within: these views are made of the
    # tables below.

    @cached_property
    def geometry(self) -> Geometry:
        """Pairs of updates, ready to look up; the reference is the first SFT."""
        from tasks.reporting.views.pairs import geometry

        return geometry(self)

    @cached_property
    def paths(self) -> Paths:
        """Barriers between updates, ready to look up."""
        from tasks.reporting.views.paths import paths_of

        return paths_of(self.barriers)

    @cached_property
    def similarity(self) -> Similarity | None:
        """CKA of hidden states, ready to look up; None where it was not measured."""
        from tasks.reporting.views.similarity import similarity_of

        return similarity_of(self.cka)


@dataclass(frozen=True)
class Score:
    """One run on one benchmark; accuracies are shares, ``low`` and ``high`` the 95 % interval: Wilson's for one answer
    a problem, otherwise a bootstrap over problems."""

    n: int
    correct: int
    accuracy: float
    low: float
    high: float
    unparsed: int
    truncated: int
    answer_loss: float | None


@dataclass(frozen=True)
class Versus:
    """One run against another on the problems that both answered; ``difference`` is this run's share less the other's.

    ``only_this`` and ``only_other`` are the discordant problems. ``low``, ``high``: 95 % interval of the difference of
    these two models; ``method_low``, ``method_high``: with the spread of repeated trainings, of which one has the
    standard deviation ``training_sd``, known on ``repeats`` degrees of freedom; None: no training was repeated.
    ``p_value`` is exact two-sided, ``p_mid`` its mid-p; ``p_holm`` adjusted over the pairs of ``family``, None outside
    families. ``detectable``: the smallest true difference, a share, that the test would have found; None: none.
    """

    n: int
    only_this: int
    only_other: int
    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    p_mid: float | None
    p_holm: float | None
    family: str | None
    detectable: float | None
    verdict: str
    repeats: int | None = None
    training_sd: float | None = None
    method_low: float | None = None
    method_high: float | None = None

    @property
    def shown(self) -> bool:
        """Whether a difference is shown. Its absence never means that the two are equal."""
        return self.verdict in SHOWN

    @property
    def p(self) -> float | None:
        """What the verdict read: adjusted within the family, else the exact p itself."""
        return self.p_value if self.family is None else self.p_holm

    @property
    def rejects(self) -> bool:
        """Whether the exact test of this pair alone rejects."""
        return self.p_value is not None and self.p_value <= LEVEL

    @property
    def repeatable(self) -> bool | None:
        """Whether the interval with the spread of trainings leaves out 0; None where that spread is not known."""
        if self.method_low is None or self.method_high is None:
            return None
        return not self.method_low <= 0 <= self.method_high


@dataclass(frozen=True)
class HeadlineRow:
    """One run's row of the headline table, on the study's first benchmark and its second; None: not measured."""

    info: RunInfo
    first: Score | None
    first_versus: Versus | None
    second: Score | None
    second_versus: Versus | None
    cosine: float | None
    norm: float | None
    effective_rank: float | None


def frames(tables: StudyTables) -> dict[str, pl.DataFrame]:
    """File name -> frame, checked against its schema. Raises `InputError` naming the frame and the column."""
    return {name: checked(getattr(tables, name), schema, name) for name, schema in SCHEMAS.items()}


def with_frames(tables: StudyTables, data: dict[str, Any]) -> StudyTables:
    """``tables`` with the frames of ``data``, as `frames` returns them."""
    return replace(tables, **data)


def base_of(tables: StudyTables) -> RunInfo:
    """The base's row, made up where no table has it, so that its absence shows."""
    known = [info for info in _everyone(tables) if info.method == "base"]
    return known[0] if known else RunInfo("base", "base", 0, 0, 0.0)


def trained_runs(tables: StudyTables) -> list[RunInfo]:
    """The runs that have a weight update, in the study's order."""
    return [info for info in tables.runs if info.method not in REFERENCES]


def ordered_runs(tables: StudyTables) -> list[RunInfo]:
    """The base, the trained runs, then whatever else was evaluated (the teacher)."""
    base = base_of(tables)
    trained = trained_runs(tables)
    return [base, *trained, *(info for info in _everyone(tables) if info not in trained and info != base)]


def _everyone(tables: StudyTables) -> list[RunInfo]:
    columns = ["run", "method", "seed", "data_seed", "lr"]
    evaluated = tables.accuracy.select(columns).unique(subset="run", maintain_order=True).rows()
    named = {info.run for info in tables.runs}
    return [*tables.runs, *(RunInfo(*row) for row in evaluated if row[0] not in named)]


def benchmarks(tables: StudyTables) -> list[str]:
    """Every benchmark that was evaluated, the held-out problems first."""
    found = tables.accuracy["benchmark"].unique(maintain_order=True).to_list()
    return sorted(found, key=lambda name: (name != HELDOUT, name != HARD))


def primary_benchmark(tables: StudyTables) -> str:
    """The benchmark of the headline: the held-out problems, or the first one where a study has none of that name."""
    return (benchmarks(tables) or [HELDOUT])[0]


def second_benchmark(tables: StudyTables) -> str | None:
    """The one that stands beside it: the hard problems, or the next one; None where there is only one."""
    return next(iter(benchmarks(tables)[1:]), None)


def score(tables: StudyTables, run: str, benchmark: str) -> Score | None:
    """One run's accuracy on one benchmark, or None where it was not measured."""
    found = tables.accuracy.filter(pl.col("run") == run, pl.col("benchmark") == benchmark)
    columns = ["n", "correct", "accuracy", "low", "high", "unparsed", "truncated", "answer_loss"]
    return Score(*found.select(columns).row(0)) if found.height else None


def versus(tables: StudyTables, run: str, other: str, benchmark: str) -> Versus | None:
    """``run`` against ``other``, whichever way round the McNemar table has the pair; None where it has not."""
    for a, b, sign in ((run, other, 1), (other, run, -1)):
        found = tables.mcnemar.filter(pl.col("benchmark") == benchmark, pl.col("run_a") == a, pl.col("run_b") == b)
        if found.height:
            return versus_of(found.row(0, named=True), sign)
    return None


def versus_of(row: dict[str, Any], sign: int = 1) -> Versus:
    """A row of MCNEMAR as a against b, or with ``sign`` -1 as b against a."""
    only_this, only_other = (row["only_a"], row["only_b"])[::sign]
    low, high = _turned(row["low"], row["high"], sign)
    method_low, method_high = _turned(row["method_low"], row["method_high"], sign)
    return Versus(
        n=row["n"],
        only_this=only_this,
        only_other=only_other,
        difference=sign * row["difference"],
        low=low,
        high=high,
        verdict=row["verdict"] or NO_POWER,
        method_low=method_low,
        method_high=method_high,
        **{
            name: row[name] for name in ("p_value", "p_mid", "p_holm", "family", "detectable", "repeats", "training_sd")
        },
    )


def _turned(low: float | None, high: float | None, sign: int) -> tuple[float | None, float | None]:
    return (low, high) if sign > 0 else (None if high is None else -high, None if low is None else -low)


def spectrum_value(spectra: pl.DataFrame, run: str, metric: str, k: int | None = None) -> float | None:
    """A measure of one run's whole update (module "*")."""
    whole = (pl.col("module") == "*") & pl.col("layer").is_null() & pl.col("projection").is_null()
    found = spectra.filter(whole, pl.col("run") == run, pl.col("metric") == metric, pl.col("k").eq_missing(k))
    return found["value"][0] if found.height else None


def nobody_solves(tables: StudyTables) -> bool:
    """Whether every accuracy but the teacher's is below `NEAR_ZERO`: there is no accuracy for a method to change."""
    solved = tables.accuracy.filter(pl.col("method") != "teacher")["accuracy"]
    return solved.len() > 0 and bool((solved < NEAR_ZERO).all())


def unended(tables: StudyTables, benchmark: str) -> Score | None:
    """The base's score where at least `MOST_UNENDED` of its greedy answers were cut: no accuracy there is judged.

    Whatever then teaches a model to end its answers raises its accuracy.
    """
    found = score(tables, base_of(tables).run, benchmark)
    return found if found is not None and found.truncated >= MOST_UNENDED * found.n else None


def judged(tables: StudyTables) -> StudyTables:
    """``tables`` without verdicts, p-values and detectable differences on benchmarks where the base is `unended`."""
    cut = pl.col("benchmark").is_in([name for name in benchmarks(tables) if unended(tables, name)])
    numbers = [name for name in tables.mcnemar.columns if name.startswith("p_") or name == "detectable"]
    verdict = pl.when(cut).then(pl.lit(NOT_JUDGED)).otherwise("verdict").alias("verdict")
    return replace(tables, mcnemar=tables.mcnemar.with_columns(verdict, *(pl.when(~cut).then(n) for n in numbers)))
