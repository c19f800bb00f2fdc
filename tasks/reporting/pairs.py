"""Views of the geometry: cosines between updates and the noise floor that every one of them is read against."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import polars as pl

from tasks.contracts import RunInfo
from tasks.reporting.join import (
    HARD,
    HeadlineRow,
    StudyTables,
    base_of,
    ordered_runs,
    primary_benchmark,
    score,
    spectrum_value,
    trained_runs,
    versus,
)

AT_FLOOR, BELOW_FLOOR, IS_FLOOR = "at the noise floor", "below the noise floor", "noise floor"
NO_FLOOR, OTHER_SEED = "no noise floor measured", "other initialisation"

_REVERSED = {"orthogonal_fraction": "orthogonal_fraction_reverse"}


@dataclass(frozen=True)
class Geometry:
    """Global (module "*") pair metrics, ready to look up. Build it with `geometry`."""

    runs: tuple[RunInfo, ...]
    reference: RunInfo | None
    """The run that the others are compared with: the first SFT."""
    twins: tuple[tuple[str, str], ...]
    """Pairs of one method, seed and learning rate that differ in the order of the data only."""
    floor: float | None
    """The lowest cosine of such a pair: what the order of the data alone does to a direction."""
    k: int | None
    """Largest subspace dimension measured."""
    modules: int
    """Modules that a global value is taken over."""
    values: dict[tuple[str, str, str, int | None], float | None]

    def value(self, run: str, other: str, metric: str, k: int | None = None) -> float | None:
        """A metric of ``run`` against ``other``, whichever way round the frame has the pair."""
        if (run, other, metric, k) in self.values:
            return self.values[run, other, metric, k]
        return self.values.get((other, run, _REVERSED.get(metric, metric), k))

    def cosine(self, run: str, other: str) -> float | None:
        return 1.0 if run == other else self.value(run, other, "cosine")

    def standing(self, run: RunInfo, other: RunInfo) -> str:
        """How the pair's cosine stands to the noise floor; empty where the cosine was not measured."""
        cosine = self.cosine(run.run, other.run)
        if cosine is None or run.run == other.run:
            return ""
        if is_twin(run, other):
            return IS_FLOOR
        if self.floor is None:
            return NO_FLOOR
        if run.seed != other.seed:
            return OTHER_SEED
        return AT_FLOOR if cosine >= self.floor else BELOW_FLOOR


def is_twin(a: RunInfo, b: RunInfo) -> bool:
    """Same method, same LoRA initialisation, same learning rate, other data order."""
    return (a.method, a.seed, a.lr) == (b.method, b.seed, b.lr) and a.data_seed != b.data_seed


def geometry(tables: StudyTables) -> Geometry:
    """The study's global pair metrics, its reference and its noise floor."""
    runs = tuple(trained_runs(tables))
    everywhere = tables.pair_metrics.filter(pl.col("module") == "*").select("run_a", "run_b", "metric", "k", "value")
    values = {(a, b, metric, k): value for a, b, metric, k, value in everywhere.iter_rows()}
    twins = tuple((a.run, b.run) for a, b in combinations(runs, 2) if is_twin(a, b))
    found = [values.get((a, b, "cosine", None), values.get((b, a, "cosine", None))) for a, b in twins]
    measured = [value for value in found if value is not None]
    return Geometry(
        runs=runs,
        reference=next((info for info in runs if info.method == "sft"), None),
        twins=twins,
        floor=min(measured, default=None),
        k=max((k for (*_, metric, k) in values if metric == "angle_left" and k is not None), default=None),
        modules=tables.pair_metrics.filter(pl.col("module") != "*")["module"].n_unique(),
        values=values,
    )


def cosine_matrix(view: Geometry) -> np.ndarray:
    """(M, M) global cosines of the trained runs in the study's order; NaN where not measured."""
    cosines = [[view.cosine(a.run, b.run) for b in view.runs] for a in view.runs]
    return np.array(cosines, dtype=np.float64).reshape(len(view.runs), len(view.runs))


def pairs(view: Geometry) -> list[tuple[RunInfo, RunInfo]]:
    """Every pair of trained runs: the noise floor's first, then those with the reference, then the rest."""

    def rank(pair: tuple[RunInfo, RunInfo]) -> tuple[bool, bool]:
        return not is_twin(*pair), view.reference not in pair

    return sorted(combinations(view.runs, 2), key=rank)


def layer_profiles(tables: StudyTables, view: Geometry) -> dict[str, tuple[list[int], list[float]]]:
    """Run -> (layers, cosine to the reference): in each layer the mean over its modules that have a cosine."""
    if view.reference is None:
        return {}
    reference = view.reference.run
    rows = tables.pair_metrics.filter(
        pl.col("metric") == "cosine",
        pl.col("layer").is_not_null(),
        pl.col("value").is_not_null(),
        (pl.col("run_a") == reference) | (pl.col("run_b") == reference),
    ).with_columns(run=pl.when(pl.col("run_a") == reference).then("run_b").otherwise("run_a"))
    means = rows.group_by("run", "layer").agg(pl.col("value").mean()).sort("run", "layer")
    profiles = {}
    for info in view.runs:
        own = means.filter(pl.col("run") == info.run)
        if own.height:
            profiles[info.run] = (own["layer"].to_list(), own["value"].to_list())
    return profiles


def headline_rows(tables: StudyTables, view: Geometry) -> list[HeadlineRow]:
    """One row a run: the base first, the trained runs, then the teacher where it was evaluated."""
    base, primary, reference = base_of(tables).run, primary_benchmark(tables), view.reference
    return [
        HeadlineRow(
            info=info,
            heldout=score(tables, info.run, primary),
            heldout_versus=versus(tables, info.run, base, primary),
            hard=score(tables, info.run, HARD) if primary != HARD else None,
            hard_versus=versus(tables, info.run, base, HARD) if primary != HARD else None,
            cosine=view.cosine(info.run, reference.run) if reference and info in view.runs else None,
            norm=spectrum_value(tables, info.run, "norm"),
            effective_rank=spectrum_value(tables, info.run, "effective_rank"),
        )
        for info in ordered_runs(tables)
    ]
