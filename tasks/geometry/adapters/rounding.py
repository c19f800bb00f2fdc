"""What the rounding of stored weights does to an update that is their difference from the base's.

bfloat16 keeps 8 bits, so neighbours of a weight w lie ``2^-8 |w|`` to ``2^-7 |w|`` apart: an update of a thousandth of
the weights is mostly below half a step. It comes out as zeros and whole steps, spread over ALL directions: its ranks
are those of noise, and its cosines with other updates are too near 0.

How large the error is follows from the steps, which are known, and from the law of the unrounded entries, which the
smallest weights show, since their steps are finest: the entries of the update at the finest hundredth stand for all
(which takes the update to be independent of the size of the weight), and are rounded to every other step. Entries at
the finest steps have the error of rounding to nearest, ``step^2 / 12``; so have all where the base has finer steps than
the model, and its weights are not among them. Within 3 % of the true norm for Gaussian weights of 256 x 256 and
updates of rank 1, 2 and 25 of 1e-4 to 1e-1 of their norm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import numpy as np

from tasks.geometry.delta import Array

LIMIT = 0.1
"""Share of an update's norm above which rounding leaves it no rank."""

NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}

_BITS = {"F64": 52, "F32": 23, "F16": 10, "BF16": 7}
"""Stored bits of a fraction: the step of a weight in [2^e, 2^(e + 1)) is 2^(e - bits)."""
_LOWEST = {"F64": -1022, "F32": -126, "F16": -14, "BF16": -126}
"""Least e: steps below it are no finer."""

_LEAST, _MOST = 200, 10_000
"""Entries of the smallest weights that are taken at least, and at most."""


@dataclass(frozen=True)
class Rounding:
    """Of one module, or summed over several: squared norm of the stored update; expected of its rounding, and of the
    update before and after it; ``kept``: the expected inner product of those two."""

    stored: float
    error: float
    before: float
    after: float
    kept: float
    changed: int
    entries: int

    def __add__(self, other: Rounding) -> Rounding:
        return Rounding(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    @property
    def share(self) -> float:
        """Norm of the rounding over the stored update's; 0 for one without a change."""
        return math.sqrt(self.error / self.stored) if self.stored else 0.0

    @property
    def too_large(self) -> bool:
        return self.share > LIMIT

    @property
    def cosine(self) -> float:
        """Of the stored update with the one before rounding. Updates that are alike are rounded alike, so that a cosine
        of two loses less than the product of theirs: .92 became .76 at .64 each, of rank 25 in bfloat16 at 1e-3."""
        lengths = math.sqrt(self.after) * math.sqrt(self.before)
        return min(self.kept / lengths, 1.0) if lengths else 0.0


NOTHING = Rounding(0.0, 0.0, 0.0, 0.0, 0.0, 0, 0)


def rounded_to(values: Array, kind: str) -> Array:
    """Normal numbers rounded to a type's precision, to nearest, ties to even."""
    steps = np.ldexp(1.0, np.frexp(values)[1] - 1 - _BITS[kind])
    return np.asarray(steps * np.rint(values / steps))


def rounding(update: Array, weight: Array, kind: str, base_kind: str) -> Rounding:
    """Of ``update`` = ``weight`` less the base's, (out, in) each, stored as ``kind`` and ``base_kind``."""
    stored, changed = float(np.vdot(update, update)), int(np.count_nonzero(update))
    if not changed:
        return replace(NOTHING, entries=update.size)
    used = (weight != 0) | (update != 0)
    exponents = np.where(weight == 0, _LOWEST[kind], np.maximum(np.frexp(weight)[1] - 1, _LOWEST[kind]))
    exponents, entries = exponents[used] - _BITS[kind], update[used]
    steps, counts = np.unique(exponents, return_counts=True)
    squares = np.ldexp(1.0, 2 * np.maximum(steps, -500))
    if _BITS[base_kind] > _BITS[kind]:
        error = float(counts @ squares) / 12
        before = max(stored - error, 0.0)
        return Rounding(stored, error, before, stored, before, changed, update.size)
    enough = min(max(_LEAST, entries.size // 100), entries.size)
    finest = steps[np.searchsorted(np.cumsum(counts), enough)]
    sample = entries[exponents <= finest]
    sample = sample[:: max(1, len(sample) // _MOST)]
    error = before = after = kept = 0.0
    for exponent, square, count in zip(steps, squares, counts, strict=True):
        step = math.sqrt(square)
        rounded = sample if exponent <= finest else step * np.rint(sample / step)
        error += count * (square / 12 if exponent <= finest else float(np.mean((rounded - sample) ** 2)))
        before += count * float(np.mean(sample**2))
        after += count * float(np.mean(rounded**2))
        kept += count * float(np.mean(sample * rounded))
    return Rounding(stored, error, before, after, kept, changed, update.size)
