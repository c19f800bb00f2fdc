"""Reading of the claim that the order of the methods is there before the first step: two rankings of the same methods.

Methods are ranked by the cosine of their gradient with SFT's at the base, without the noise of the rows (the plain
cosine of a noisy method is low for its noise alone), and by the cosine of their trained update with SFT's. Kendall's
tau of the two rankings has an exact one-sided p: the share of all orders of n methods that agree at least as well. Five
methods give 1 in 120 at best, and .042 with one pair changed round.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import factorial

import numpy as np
from numpy.typing import NDArray

from tasks.reporting.claims.claim import Part
from tasks.reporting.claims.measured import Measured, Missing, known
from tasks.reporting.claims.pair_readings import pairs
from tasks.reporting.estimates import Estimate
from tasks.reporting.formats import number, p_value
from tasks.reporting.views.before import before_of
from tasks.reporting.views.study import Study

DRAWS = 10_000
NORMAL = 1.959964
"""Standard deviations from the middle of a 95 % interval to its end."""
FEWEST = 3
"""Methods beside SFT, below which there is no order to speak of."""

Array = NDArray[np.float64]


def order_before_training(study: Study) -> list[Part]:
    """Kendall's tau of the methods' cosines to SFT before and after training, with an interval from both's noise."""
    before = before_of(study.gradients)
    if before is None:
        return [Missing("no gradients were taken before training (gradients.n does that)")]
    found = {name: before.of("sft", name) for name in study.geometry.main if name != "sft"}
    starts = {name: start.corrected for name, start in found.items() if start is not None}
    if len(starts) < FEWEST:
        return [Missing(f"{len(starts)} methods have a gradient beside SFT's; an order takes {FEWEST}")]
    ends = {}
    for name, start in starts.items():
        end = pairs("cosine", ("sft", name))(study)[0]
        if isinstance(end, Missing):
            return [end]
        if known(start.value) is None:
            return [Missing(f"on these rows the gradient of {name} or of sft is noise: raise gradients.n")]
        ends[name] = Estimate(end.value, end.low, end.high)
    first, last = (np.array([one.value for one in side.values()], dtype=np.float64) for side in (starts, ends))
    tau = float(kendall(first, last))
    low, high = _interval([*starts.values()], [*ends.values()])
    p = exact_p(len(first), tau)
    rho = float(np.corrcoef(np.argsort(np.argsort(first)), np.argsort(np.argsort(last)))[0, 1])
    told = (f"{name} {number(x, 3)} then {number(y, 3)}" for name, x, y in zip(starts, first, last, strict=True))
    detail = f"exact p = {p_value(p)} of {len(first)} methods, Spearman {number(rho, 2)}; {', '.join(told)}"
    return [Measured("Kendall's tau", tau, low, high, None, len(first), "methods", detail, p=p)]


def kendall(first: Array, last: Array) -> Array:
    """Tau-a of two rankings over the last axis: concordant less discordant pairs, by all pairs.

    >>> float(kendall(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])))  # one of three pairs changed round
    0.3333333333333333
    """
    i, j = np.triu_indices(first.shape[-1], 1)
    agree = np.sign(first[..., i] - first[..., j]) * np.sign(last[..., i] - last[..., j])
    return np.asarray(agree.mean(axis=-1))


def exact_p(n: int, tau: float) -> float:
    """Share of the n! orders whose tau with a given one is at least ``tau``; a tie counts as a pair changed round.

    >>> round(exact_p(5, 1.0) * 120, 9), round(exact_p(5, 0.8), 4)
    (1.0, 0.0417)
    """
    changed = int(np.ceil(n * (n - 1) / 2 * (1 - tau) / 2 - 1e-9))
    orders: Array = np.ones(1)  # of k items, by their pairs that are changed round: one item more adds 0 to k of them
    for k in range(2, n + 1):
        orders = np.convolve(orders, np.ones(k)).astype(np.float64)
    return float(orders[: changed + 1].sum() / factorial(n))


def _interval(starts: Sequence[Estimate], ends: Sequence[Estimate]) -> tuple[float | None, float | None]:
    """95 % of tau where every cosine varies as its own interval says; none where one has none.

    What is drawn around is uncertain already, so the interval errs on the wide side.
    """
    rng = np.random.default_rng(0)
    drawn: list[Array] = []
    for side in (starts, ends):
        found = [(one.value, known(one.low), known(one.high)) for one in side]
        if any(part is None for one in found for part in one):
            return None, None
        table: Array = np.array(found, dtype=np.float64)
        sd = (table[:, 2] - table[:, 1]) / 2 / NORMAL
        drawn.append(table[:, 0] + sd * rng.standard_normal((DRAWS, len(sd))))
    taus = kendall(*drawn)
    return float(np.quantile(taus, 0.025)), float(np.quantile(taus, 0.975))
