"""Singular values of updates, and how many directions they use."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tasks.geometry.delta import Array, LoraDelta
from tasks.geometry.factored import factor
from tasks.geometry.frames import Row, mean


def singular_values(delta: LoraDelta) -> dict[str, Array]:
    """Module -> singular values of ``scale * B A``, descending, shape (min(r, out, in),).

    Examples
    --------
    >>> import numpy as np
    >>> from tasks.geometry.delta import Factors, LoraDelta
    >>> delta = LoraDelta({"layers.0.q_proj": Factors(np.diag([3.0, 1.0]), np.eye(2, 5), 2.0)})
    >>> singular_values(delta)["layers.0.q_proj"].round(6).tolist()
    [6.0, 2.0]
    """
    return {name: factor(factors).s for name, factors in delta.modules.items()}


def effective_rank(singular_values: Array) -> float:
    """``exp(H(p))`` with ``p = s / sum(s)``, H in nats: the entropy form of Roy and Vetterli (2007).

    Between 1 and the number of non-zero singular values (n when all are equal); NaN for a zero update. The geometry
    paper does not say which form it uses.

    Examples
    --------
    >>> import numpy as np
    >>> round(effective_rank(np.array([2.0, 2.0, 2.0, 0.0])), 6)
    3.0
    >>> round(effective_rank(np.array([9.0, 1.0])), 3)  # exp(-.9 ln .9 - .1 ln .1)
    1.384
    """
    p = _shares(singular_values)
    p = p[p > 0]
    return float(np.exp(-np.sum(p * np.log(p)))) if p.size else math.nan


def participation_rank(singular_values: Array) -> float:
    """``1 / sum(p^2) = (sum s)^2 / sum s^2`` with ``p = s / sum(s)``: the participation form of the effective rank.

    Never above `effective_rank`, equal to it when all non-zero singular values are equal; NaN for a zero update.
    """
    p = _shares(singular_values)
    return float(1.0 / np.sum(p**2)) if p.size else math.nan


def stable_rank(singular_values: Array) -> float:
    """``|dW|_F^2 / |dW|_2^2 = sum s^2 / max s^2``; NaN for a zero update."""
    s = np.asarray(singular_values, dtype=np.float64)
    largest = s.max(initial=0.0)
    return float(np.sum((s / largest) ** 2)) if largest > 0 else math.nan


RANKS = {"effective_rank": effective_rank, "participation_rank": participation_rank, "stable_rank": stable_rank}
"""Scalar measures of one module's singular values: one line a measure."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Singular values of one module's update, and its squared Frobenius norm.

    ``complete``: whether ``s`` are all of them; else they are the leading ones and no rank is given. ``rounded``:
    whether they are so much those of the weights' rounding that none is given either.
    """

    s: Array
    squared: float
    complete: bool = True
    rounded: bool = False


def spectrum_rows(spectra: Mapping[str, Spectrum]) -> list[Row]:
    """One adapter's spectra: rows of the SPECTRA schema.

    A module has ``singular_value`` for k = 1..n (descending), ``norm`` (Frobenius) and every measure in `RANKS`. In
    module "*", ``norm`` is that of the whole update and the ranks are means over the modules; NaN marks a rank of a
    zero update, or of one whose spectrum is not complete or is rounding, which such a mean leaves out.
    """
    rows: list[Row] = []
    ranks: dict[str, list[float]] = {metric: [] for metric in RANKS}
    for name, spectrum in spectra.items():
        rows += [(name, "singular_value", k, value) for k, value in enumerate(spectrum.s.tolist(), start=1)]
        rows.append((name, "norm", None, math.sqrt(spectrum.squared)))
        known = spectrum.complete and not spectrum.rounded
        for metric, measure in RANKS.items():
            ranks[metric].append(measure(spectrum.s) if known else math.nan)
            rows.append((name, metric, None, ranks[metric][-1]))
    rows.append(("*", "norm", None, math.sqrt(sum(spectrum.squared for spectrum in spectra.values()))))
    return rows + [("*", metric, None, mean(values)) for metric, values in ranks.items()]


def _shares(singular_values: Array) -> Array:
    s = np.asarray(singular_values, dtype=np.float64)
    total = s.sum()
    return s / total if total > 0 else np.empty(0)
