"""A study: its runs, its frames, its record, and the views that tables, figures, sentences and claims are made of."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Self

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
    ON_POLICY,
    PAIR_METRICS_FRAME,
    RETENTION,
    SAMPLES,
    SOUPS,
    SPECTRA,
    TRAINING,
    TRAJECTORIES,
    TRUNCATION,
    checked,
)
from tasks.core.results import REFERENCE_METHODS, RunInfo
from tasks.reporting.views.accuracy import MOST_UNENDED, NEAR_ZERO, NOT_JUDGED, Score, Versus, versus_of
from tasks.reporting.views.pairs import EVERYTHING, Geometry, geometry_of
from tasks.reporting.views.paths import Paths, paths_of
from tasks.reporting.views.similarity import Similarity, similarity_of

HELDOUT, HARD = "heldout", "hard"
REFERENCES = REFERENCE_METHODS
"""Methods of rows that no study trains: the base, always the first row, and the teacher, where it was evaluated."""

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
    "on_policy": ON_POLICY,
    "truncation": TRUNCATION,
    "trajectories": TRAJECTORIES,
    "retention": RETENTION,
    "soups": SOUPS,
}
"""A study's frames, by the name of their file."""


def _empty(name: str) -> pl.DataFrame:
    return pl.DataFrame(schema=SCHEMAS[name])


@dataclass(frozen=True)
class Row:
    """One run's numbers on the study's first benchmark and its second; None: not measured."""

    info: RunInfo
    first: Score | None
    first_versus: Versus | None
    second: Score | None
    second_versus: Versus | None
    cosine: float | None
    norm: float | None
    effective_rank: float | None


@dataclass(frozen=True)
class Updates:
    """Runs and what was measured of their updates, in the schemas of `tasks.core.frames`."""

    runs: list[RunInfo]
    pair_metrics: pl.DataFrame
    spectra: pl.DataFrame

    @property
    def trained(self) -> list[RunInfo]:
        """The runs that have a weight update, in their order."""
        return [info for info in self.runs if info.method not in REFERENCES]

    @property
    def compared_with(self) -> RunInfo | None:
        """The run that the others are compared with: the first SFT."""
        return next((info for info in self.trained if info.method == "sft"), None)

    @cached_property
    def geometry(self) -> Geometry:
        """Pairs of updates, ready to look up. A run without a pair is known to be zero by its norm."""
        view = geometry_of(self.trained, self.pair_metrics, self.compared_with)
        return replace(view, zero=view.zero | {run for run, norm in self.norms.items() if norm == 0})

    def drawn(self, *conditions: pl.Expr) -> pl.DataFrame:
        """Rows of pair metrics as a figure's numbers have them."""
        columns = ("run_a", "run_b", "metric", "k", "layer", "value", "low", "high", "null", "percentile")
        return self.pair_metrics.filter(*conditions).select(columns)

    @cached_property
    def norms(self) -> dict[str, float | None]:
        """Run -> the norm of its update."""
        return {info.run: self.spectrum(info.run, "norm") for info in self.trained}

    def spectrum(self, run: str, metric: str, k: int | None = None) -> float | None:
        """A measure of one run's whole update."""
        of_run = (pl.col("run") == run) & (pl.col("metric") == metric) & pl.col("k").eq_missing(k)
        found = self.spectra.filter(EVERYTHING, of_run)
        return found["value"][0] if found.height else None


@dataclass(frozen=True)
class Study(Updates):
    """Everything a report is made of; frames are empty where nothing was measured.

    ``rollouts``: counts by name (``prompts``, ``rows``, ``correct``, ``mixed_groups``, ``dropped`` {rule: rows}, ...);
    a count may be None. ``record``: name, settings, versions, commit, mlflow, stages, wall_seconds, machine, checks,
    notes, training {run: {examples, epochs}}, unparsed_golds {benchmark: problems whose gold could not be read},
    benchmarks (a list of {name, n, source, template, shared_with_rollouts_dropped});
    a key that is missing prints as not recorded.
    """

    accuracy: pl.DataFrame
    mcnemar: pl.DataFrame
    items: pl.DataFrame
    training: pl.DataFrame
    rollouts: dict[str, Any]
    record: dict[str, Any]
    samples: pl.DataFrame = field(default_factory=partial(_empty, "samples"))
    differences: pl.DataFrame = field(default_factory=partial(_empty, "differences"))
    connectivity: pl.DataFrame = field(default_factory=partial(_empty, "connectivity"))
    barriers: pl.DataFrame = field(default_factory=partial(_empty, "barriers"))
    cka: pl.DataFrame = field(default_factory=partial(_empty, "cka"))
    lens: pl.DataFrame = field(default_factory=partial(_empty, "lens"))
    divergence: pl.DataFrame = field(default_factory=partial(_empty, "divergence"))
    gradients: pl.DataFrame = field(default_factory=partial(_empty, "gradients"))
    on_policy: pl.DataFrame = field(default_factory=partial(_empty, "on_policy"))
    truncation: pl.DataFrame = field(default_factory=partial(_empty, "truncation"))
    trajectories: pl.DataFrame = field(default_factory=partial(_empty, "trajectories"))
    retention: pl.DataFrame = field(default_factory=partial(_empty, "retention"))
    soups: pl.DataFrame = field(default_factory=partial(_empty, "soups"))

    @property
    def name(self) -> str:
        return str(self.record.get("name") or "study")

    @cached_property
    def paths(self) -> Paths:
        """Barriers between updates, ready to look up."""
        return paths_of(self.barriers)

    @cached_property
    def similarity(self) -> Similarity | None:
        """CKA of hidden states, ready to look up; None where it was not measured."""
        return similarity_of(self.cka)

    @cached_property
    def _everyone(self) -> list[RunInfo]:
        columns = ["run", "method", "seed", "data_seed", "lr"]
        evaluated = self.accuracy.select(columns).unique(subset="run", maintain_order=True).rows()
        named = {info.run for info in self.runs}
        return [*self.runs, *(RunInfo(*row) for row in evaluated if row[0] not in named)]

    @cached_property
    def base(self) -> RunInfo:
        """The base's row, made up where no table has it, so that its absence shows."""
        known = (info for info in self._everyone if info.method == "base")
        return next(known, RunInfo("base", "base", 0, 0, 0.0))

    @cached_property
    def ordered(self) -> list[RunInfo]:
        """The base, the trained runs, then whatever else was evaluated (the teacher)."""
        return list(dict.fromkeys([self.base, *self.trained, *self._everyone]))

    @cached_property
    def benchmarks(self) -> list[str]:
        """Every benchmark that was evaluated, the held-out problems first."""
        found = self.accuracy["benchmark"].unique(maintain_order=True).to_list()
        return sorted(found, key=lambda name: (name != HELDOUT, name != HARD))

    @property
    def primary(self) -> str:
        """The benchmark of the headline: the held-out problems, or the first one where a study has none of that
        name."""
        return (self.benchmarks or [HELDOUT])[0]

    @property
    def second(self) -> str | None:
        """The one that stands beside it: the hard problems, or the next one; None where there is only one."""
        return next(iter(self.benchmarks[1:]), None)

    def score(self, run: str, benchmark: str) -> Score | None:
        """One run's accuracy on one benchmark, or None where it was not measured."""
        found = self.accuracy.filter(pl.col("run") == run, pl.col("benchmark") == benchmark)
        columns = ["n", "correct", "accuracy", "low", "high", "unparsed", "truncated", "answer_loss"]
        return Score(*found.select(columns).row(0)) if found.height else None

    def versus(self, run: str, other: str, benchmark: str) -> Versus | None:
        """``run`` against ``other``, whichever way round the McNemar table has the pair; None where it has not."""
        for a, b, sign in ((run, other, 1), (other, run, -1)):
            found = self.mcnemar.filter(pl.col("benchmark") == benchmark, pl.col("run_a") == a, pl.col("run_b") == b)
            if found.height:
                return versus_of(found.row(0, named=True), sign)
        return None

    @cached_property
    def rows(self) -> list[Row]:
        """One row a run: the base first, the trained runs, then the teacher where it was evaluated."""
        base, first, second = self.base.run, self.primary, self.second
        view, reference = self.geometry, self.geometry.reference
        return [
            Row(
                info=info,
                first=self.score(info.run, first),
                first_versus=self.versus(info.run, base, first),
                second=self.score(info.run, second) if second else None,
                second_versus=self.versus(info.run, base, second) if second else None,
                cosine=view.cosine(info.run, reference.run) if reference and info in view.runs else None,
                norm=self.spectrum(info.run, "norm"),
                effective_rank=self.spectrum(info.run, "effective_rank"),
            )
            for info in self.ordered
        ]

    @property
    def nobody_solves(self) -> bool:
        """Whether every accuracy but the teacher's is below `NEAR_ZERO`: there is none for a method to change."""
        solved = self.accuracy.filter(pl.col("method") != "teacher")["accuracy"]
        return solved.len() > 0 and bool((solved < NEAR_ZERO).all())

    def unended(self, benchmark: str) -> Score | None:
        """The base's score where at least `MOST_UNENDED` of its greedy answers were cut: no accuracy there is judged.

        Whatever then teaches a model to end its answers raises its accuracy.
        """
        found = self.score(self.base.run, benchmark)
        return found if found is not None and found.truncated >= MOST_UNENDED * found.n else None

    def judged(self) -> Self:
        """Without verdicts, p-values and detectable differences on benchmarks where the base is `unended`."""
        cut = pl.col("benchmark").is_in([name for name in self.benchmarks if self.unended(name)])
        numbers = [name for name in self.mcnemar.columns if name.startswith("p_") or name == "detectable"]
        verdict = pl.when(cut).then(pl.lit(NOT_JUDGED)).otherwise("verdict").alias("verdict")
        return replace(self, mcnemar=self.mcnemar.with_columns(verdict, *(pl.when(~cut).then(n) for n in numbers)))

    @property
    def frames(self) -> dict[str, pl.DataFrame]:
        """The frames by the name of their file."""
        return {name: getattr(self, name) for name in SCHEMAS}

    def checked(self) -> Self:
        """With its frames in their schemas. Raises `InputError` naming the frame and the column."""
        data: dict[str, Any] = {name: checked(frame, SCHEMAS[name], name) for name, frame in self.frames.items()}
        return replace(self, **data)


@dataclass(frozen=True)
class Comparison(Updates):
    """Adapters compared with ``reference``; its frames are those of `tasks.core.frames`."""

    adapters: pl.DataFrame
    unshared: pl.DataFrame
    reference: RunInfo | None
    relations: pl.DataFrame | None = None
    merges: pl.DataFrame | None = None
    merge_losses: pl.DataFrame | None = None

    @property
    def trained(self) -> list[RunInfo]:
        return self.runs

    @property
    def compared_with(self) -> RunInfo | None:
        return self.reference
