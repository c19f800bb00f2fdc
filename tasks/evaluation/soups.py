"""Do updates add? What sums and means of updates change, beside what the single ones' changes predict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from tasks.core.errors import InputError
from tasks.core.frames import SOUPS, checked
from tasks.core.results import Soup
from tasks.evaluation.accuracy import checked_items
from tasks.evaluation.intervals import paired_interval, ratio_bootstrap

ACCURACY, FORGETTING, OWN_KL = "accuracy", "forgetting", "own_kl"


def soups_frame(
    soups: Sequence[Soup], items: pl.DataFrame, own: pl.DataFrame, retention: pl.DataFrame, base: str = "base"
) -> pl.DataFrame:
    """SOUPS of ``soups`` from the greedy answers (ITEMS) of ``base``, of all their parts, and of themselves.

    With ``f`` what is measured of a model, ``d_i`` the parts' updates and ``w`` their common weight, an accuracy is
    predicted to first order, ``f(base) + w sum_i (f(base + d_i) - f(base))``. A divergence from the base is 0 there and
    has no first order: to second order, of updates that are orthogonal in what they do to the distribution, it is
    ``w^2 sum_i KL_i``. So of a sum both are the sums of the single changes; of a mean of two the accuracy changes by
    half of them, the divergence by a quarter. Nothing is predicted of forgetting.

    ``apart`` is what was measured less that, over the problems that all of them answered; its 95 % interval is a
    bootstrap over problems of the paired differences, so it is about these trainings. ``own`` (OWN_ANSWERS) and
    ``retention`` (RETENTION) may be empty. Raises `InputError` where greedy answers are missing.
    """
    right = {
        (benchmark, run): dict(group.select("problem_id", "correct").iter_rows())
        for (benchmark, run), group in checked_items(items).filter(pl.col("sample") == 0).group_by("benchmark", "run")
    }
    rows: list[dict[str, Any]] = []
    for soup in soups:
        parts = [info.run for info in soup.of]
        about = {"soup": soup.name, "runs": parts, "weight": soup.weight}
        for benchmark in items["benchmark"].unique(maintain_order=True):
            for run in (soup.name, base, *parts):
                if (benchmark, run) not in right:
                    raise InputError(f"items: no answer of {run} to {benchmark}; evaluate it too")
            known = [right[benchmark, run] for run in (soup.name, base, *parts)]
            rows.append(about | {"measure": ACCURACY, "benchmark": benchmark} | _accuracy(known, soup.weight))
        nats = [own.filter(run=run).select("problem_id", "tokens", "kl") for run in (soup.name, *parts)]
        if all(one.height for one in nats):
            rows.append(about | {"measure": OWN_KL} | _divergence(nats, soup.weight))
        lost = retention.filter(pl.col("run") == soup.name, pl.col("forgetting").is_not_null())
        for row in lost.iter_rows(named=True):
            change = {"value": row["loss"], "change": row["forgetting"]}
            ends = {"low": row["forgetting_low"], "high": row["forgetting_high"]}
            rows.append(about | {"measure": FORGETTING, "n": row["n"]} | change | ends)
    filled = [dict.fromkeys(SOUPS) | row for row in rows]
    return checked(pl.DataFrame(filled, schema=SOUPS), SOUPS, "soups")


def _accuracy(known: Sequence[dict[str, bool]], weight: float) -> dict[str, Any]:
    """``known``: problem -> right, of the soup, the base and the parts."""
    common = sorted(set.intersection(*(set(one) for one in known)))
    soup_P, base_P, *parts_P = (np.array([one[name] for name in common], dtype=np.float64) for one in known)
    gained, lost = int((soup_P > base_P).sum()), int((soup_P < base_P).sum())
    low, high = paired_interval(gained, lost, len(common))
    expected_P = weight * sum(part_P - base_P for part_P in parts_P)
    change = float((soup_P - base_P).mean())
    return {"n": len(common), "value": float(soup_P.mean()), "change": change, "low": low, "high": high} | _apart(
        soup_P - base_P, expected_P, np.ones(len(common))
    )


def _divergence(known: Sequence[pl.DataFrame], weight: float) -> dict[str, Any]:
    """``known``: (problem_id, tokens, kl) of the soup and the parts."""
    joined, *parts = known
    for i, part in enumerate(parts):
        joined = joined.join(part.select("problem_id", pl.col("kl").alias(f"kl{i}")), on="problem_id")
    joined = joined.sort("problem_id")
    tokens_P, kl_P = joined["tokens"].to_numpy(), joined["kl"].to_numpy()
    expected_P = weight**2 * joined.select(f"kl{i}" for i in range(len(parts))).to_numpy().sum(axis=1)
    found = ratio_bootstrap(kl_P, tokens_P)
    change = {"value": found.estimate, "change": found.estimate, "low": found.low, "high": found.high}
    return {"n": joined.height} | change | _apart(kl_P, expected_P, tokens_P)


def _apart(found_P: Any, expected_P: Any, sizes_P: Any) -> dict[str, float | None]:
    """What is predicted, and what was found less that: ratios of sums over problems to the sum of their sizes. Without
    an interval where the problems' differences do not vary."""
    apart = ratio_bootstrap(found_P - expected_P, sizes_P)
    varies = np.ptp((found_P - expected_P) / sizes_P) > 0
    ends = (apart.low, apart.high) if varies else (None, None)
    predicted = float(expected_P.sum() / sizes_P.sum())
    return {"predicted": predicted, "apart": apart.estimate, "apart_low": ends[0], "apart_high": ends[1]}
