"""Linear mode connectivity: the barrier on the straight path between two solutions, and how sure one can be of it.

Shapes: ``_A`` path points, ``_P`` problems, ``_R`` bootstrap replicates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from tasks.core.errors import InputError
from tasks.core.frames import BARRIERS, CONNECTIVITY, checked
from tasks.geometry.chance.bootstrap import Array, cluster_counts

ENDS: dict[str, pl.DataType] = {
    "problem_id": pl.String(),
    "reading": pl.String(),
    "value": pl.Float64(),  # nats of the whole text for a cross-entropy; 1.0 (right) or 0.0 for "accuracy"
    "tokens": pl.Int64(),  # of that text; null for accuracy
}
"""One model's readings, problem by problem (``ends.parquet``)."""

PATH_ITEMS: dict[str, pl.DataType] = {"matched": pl.Boolean(), "alpha": pl.Float64(), **ENDS}
"""The readings of every point of one pair's paths (``path_items.parquet``)."""

_ROUNDING = 16 * np.finfo(np.float64).eps
"""Height above the chord, relative to the losses, that a path of equal or collinear losses can have by rounding."""


class BarrierInterval(NamedTuple):
    """A barrier in the units of the loss, and the confidence interval of the true one; NaN where undefined."""

    barrier: float
    low: float
    high: float


def barrier(alphas: ArrayLike, losses: ArrayLike) -> float:
    """``max_a [L(a) - ((1 - a) L(0) + a L(1))]``, in the units of ``losses``; never negative, the ends being in it.

    Frankle et al. 2020 (arXiv 1912.05671) with the chord of Entezari et al. 2022 (arXiv 2110.06296, eq. 1), which
    unlike the ends' mean charges a path nothing for ends of different height. Lower must be better: give errors, not
    accuracies. It is the largest value at the points measured, so a lower bound of the path's.

    ``alphas`` and ``losses`` have shape (A,), in any order. NaN where a loss is NaN (the barrier could be there) or an
    end is infinite (there is no chord); infinite where only a point between is. Raises `InputError` for shapes that
    differ, points outside [0, 1] or given twice, and where 0 or 1 is missing.

    Examples
    --------
    Halfway the straight line between the ends is at .2, and the loss at .5:

    >>> round(barrier([0, 0.5, 1], [0.1, 0.5, 0.3]), 6)
    0.3
    >>> barrier([0, 0.5, 1], [0.1, 0.0, 0.3])  # a path that dips
    0.0
    """
    return float(_excess(*_path(alphas, losses)).max())


def where(alphas: ArrayLike, losses: ArrayLike) -> float:
    """The alpha of `barrier`, the first of equals; NaN where the barrier is 0 (nothing lies above the chord) or NaN."""
    alphas_A, losses_A = _path(alphas, losses)
    excess_A = _excess(alphas_A, losses_A)
    return float(alphas_A[excess_A.argmax()]) if excess_A.max() > 0 else math.nan


def matched_scales(norm_a: float, norm_b: float) -> tuple[float, float]:
    """What to scale two updates by so that both have the norm ``sqrt(norm_a norm_b)``.

    The geometric mean is the one common norm that favours neither side: the two factors are reciprocal, so the smaller
    update is stretched by the ratio by which the larger one is shrunk, and rescaling both updates changes neither
    factor. (The arithmetic mean would stretch a 13 times smaller update by 7 and shrink the other by less than 2.)

    Norms are Frobenius norms of the whole updates. (NaN, NaN) where one is zero, infinite or NaN: a zero update has no
    direction to scale.
    """
    if not (0 < norm_a < math.inf and 0 < norm_b < math.inf):
        return math.nan, math.nan
    ratio = math.sqrt(norm_b) / math.sqrt(norm_a)  # roots first: the quotient of two norms may overflow
    return ratio, 1 / ratio


def barrier_interval(
    alphas: ArrayLike,
    values: ArrayLike,
    weights: ArrayLike | None,
    rng: np.random.Generator,
    replicates: int = 2000,
    level: float = 0.95,
) -> BarrierInterval:
    """The barrier of pooled losses, and an interval for the true one over problems like these.

    ``values`` (A, P): problem by problem, so that all points of the path share one draw of problems; ``weights`` (P,):
    tokens, and then the loss at a point is ``sum(values) / sum(weights)``; None for plain means (errors).

    A maximum of noisy numbers is biased upwards, and so is the percentile bootstrap of it, which would find barriers
    on flat paths. ``barrier`` is that maximum, bias and all. The interval is free of it: a simultaneous band of the
    heights above the chord, ``D(a) +- c se(a)`` with c the level's quantile of ``max_a |D*(a) - D(a)| / se(a)`` over
    draws of problems (the max-t bootstrap; Romano and Wolf 2005), and then ``max_a`` of its lower and of its upper
    side. All heights lie in the band at once with that probability, whichever point was chosen, hence their maximum
    lies in the interval. ``low > 0`` says that there is a barrier. It holds for the points measured, and is wide where
    there are few problems.

    NaN bounds for a single problem or values that are not finite. Raises `InputError` as `barrier` does, for shapes
    that do not fit, weights that are not positive, and ``level`` outside (0, 1).
    """
    if not 0 < level < 1:
        raise InputError(f"level is {level}; a confidence level lies between 0 and 1")
    values_AP = np.asarray(values, dtype=np.float64)
    if values_AP.ndim != 2 or values_AP.shape[1] == 0:
        raise InputError(f"values have shape {values_AP.shape}; need (points, problems) with at least one problem")
    problems = values_AP.shape[1]
    weights_P = np.ones(problems) if weights is None else np.asarray(weights, dtype=np.float64)
    if weights_P.shape != (problems,) or not (weights_P > 0).all():
        raise InputError(f"weights: need a positive number for each of the {problems} problems")
    alphas_A, losses_A = _path(alphas, values_AP.sum(axis=1) / weights_P.sum())
    excess_A = _excess(alphas_A, losses_A)
    found = float(excess_A.max())
    if problems < 2 or not np.isfinite(values_AP).all():
        return BarrierInterval(found, math.nan, math.nan)
    counts_RP = cluster_counts(range(problems), replicates, rng)
    losses_RA = (counts_RP @ values_AP.T) / (counts_RP @ weights_P)[:, None]
    off_RA = _heights(alphas_A, losses_RA) - excess_A
    error_A = off_RA.std(axis=0)
    moves = error_A > _ROUNDING * np.abs(losses_A).max()  # the ends never do
    if not moves.any():
        return BarrierInterval(found, found, found)
    factor = np.quantile(np.max(np.abs(off_RA[:, moves]) / error_A[moves], axis=1), level)
    margin_A = np.where(moves, factor * error_A, 0.0)
    return BarrierInterval(found, float((excess_A - margin_A).max()), float((excess_A + margin_A).max()))


def connectivity_frame(items: pl.DataFrame, run_a: str, run_b: str) -> pl.DataFrame:
    """CONNECTIVITY of one pair: ``items`` (PATH_ITEMS) pooled over the problems of each point.

    A cross-entropy is nats a token, all problems' nats over all their tokens; accuracy is a share.
    """
    pooled = (
        checked(items, PATH_ITEMS, "path_items")
        .group_by("matched", "reading", "alpha", maintain_order=True)
        .agg(
            total=pl.col("value").sum(),
            n=pl.len(),
            tokens=pl.when(pl.col("tokens").null_count() == 0).then(pl.col("tokens").sum()),
        )
        .with_columns(run_a=pl.lit(run_a), run_b=pl.lit(run_b))
        .with_columns(value=pl.col("total") / pl.coalesce("tokens", "n"))
        .drop("total")
    )
    return checked(pooled, CONNECTIVITY, "connectivity")


def barrier_frame(
    items: pl.DataFrame, run_a: str, run_b: str, seed: int = 0, replicates: int = 2000, level: float = 0.95
) -> pl.DataFrame:
    """BARRIERS of one pair: the barrier of each of its paths in ``items`` (PATH_ITEMS), with `barrier_interval`.

    Accuracy counts as its error, so a barrier of .1 is ten points of accuracy lost against the chord. One generator a
    path, from ``seed``, so that a path's draws do not depend on which others were measured. Raises `InputError` naming
    the pair and the reading where an end is missing or a problem lacks a point.
    """
    rows = []
    paths = checked(items, PATH_ITEMS, "path_items").group_by("matched", "reading", maintain_order=True)
    for (matched, reading), path in paths:
        path = path.sort("alpha", "problem_id")
        alphas, n = path["alpha"].unique(maintain_order=True).to_list(), path["problem_id"].n_unique()
        if path.height != len(alphas) * n:
            raise InputError(
                f"{run_a}~{run_b} ({reading}): some of its {n} problems lack a point; measure the path again"
            )
        tokens_P = None if path["tokens"].null_count() else path["tokens"][:n].to_numpy()
        values_AP = _losses(path, reading).reshape(len(alphas), n)
        try:
            found = barrier_interval(alphas, values_AP, tokens_P, np.random.default_rng(seed), replicates, level)
        except InputError as error:
            raise InputError(f"{run_a}~{run_b} ({reading}): {error}") from error
        pooled_A = values_AP.mean(axis=1) if tokens_P is None else values_AP.sum(axis=1) / tokens_P.sum()
        rows.append((run_a, run_b, matched, reading, *map(_some, found), _some(where(alphas, pooled_A)), n))
    return pl.DataFrame(rows, schema=BARRIERS, orient="row")


def _losses(frame: pl.DataFrame, reading: object) -> Array:
    values = frame["value"].cast(pl.Float64).fill_null(math.nan).to_numpy()
    return 1 - values if reading == "accuracy" else values


def _path(alphas: ArrayLike, losses: ArrayLike) -> tuple[Array, Array]:
    """Both as (A,) float64 arrays, ordered by alpha, checked."""
    alphas_A, losses_A = np.asarray(alphas, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    if alphas_A.ndim != 1 or alphas_A.shape != losses_A.shape:
        raise InputError(f"alphas {alphas_A.shape} and losses {losses_A.shape}: need one loss for each alpha")
    check_alphas(alphas_A.tolist())
    order = np.argsort(alphas_A)
    return alphas_A[order], losses_A[order]


def check_alphas(alphas: Sequence[float]) -> None:
    """Raises `InputError` unless all are within [0, 1], none is twice in it, and the ends 0 and 1 are."""
    if not all(0 <= alpha <= 1 for alpha in alphas) or len(set(alphas)) < len(alphas) or not {0.0, 1.0} <= {*alphas}:
        raise InputError(f"alphas: need different numbers from 0 to 1, both ends among them; got {list(alphas)}")


def _heights(alphas_A: Array, losses: Array) -> Array:
    """Losses (..., A), sorted by alpha, less the chord between the first and the last."""
    with np.errstate(invalid="ignore"):
        chord = (1 - alphas_A) * losses[..., :1] + alphas_A * losses[..., -1:]
        heights: Array = losses - chord
    return heights


def _excess(alphas_A: Array, losses_A: Array) -> Array:
    """(A,) heights above the chord, rounding of the chord removed, exactly 0 at the ends; all NaN where undefined."""
    if np.isnan(losses_A).any() or not np.isfinite(losses_A[[0, -1]]).all():
        return np.full_like(losses_A, math.nan)
    heights_A = _heights(alphas_A, losses_A)
    return np.where(np.abs(heights_A) <= _ROUNDING * np.abs(losses_A[[0, -1]]).max(), 0.0, heights_A)


def _some(value: float) -> float | None:
    return value if math.isfinite(value) else None
