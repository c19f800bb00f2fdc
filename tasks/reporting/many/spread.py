"""Several values of one number: how many, their mean, and how far they lie apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tasks.reporting.formats import NOT_MEASURED
from tasks.reporting.tables.views import Cell


@dataclass(frozen=True)
class Spread:
    """``sd``: the sample's standard deviation (n - 1); None for one value, which has no spread."""

    n: int
    mean: float
    sd: float | None
    low: float
    high: float


def spread(values: Iterable[float | None]) -> Spread | None:
    """The spread of the values that are known; None where none is."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return None
    mean = math.fsum(known) / len(known)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in known) / (len(known) - 1)) if len(known) > 1 else None
    return Spread(len(known), mean, sd, min(known), max(known))


def told(found: Spread | None, form: Callable[[float], str]) -> str:
    """``'0.98 (0.97 to 0.99, n = 3)'``, for sentences."""
    if found is None:
        return NOT_MEASURED
    if found.n == 1:
        return f"{form(found.mean)} (n = 1)"
    return f"{form(found.mean)} ({form(found.low)} to {form(found.high)}, n = {found.n})"


def cell(
    found: Spread | None, form: Callable[[float], str], width: Callable[[float], str] | None = None, of: int = 0
) -> Cell:
    """The mean, below it the standard deviation and the range, and n where it is not ``of``, which stands beside.

    ``width``: how a deviation reads, where it has another form than the value.
    """
    if found is None:
        return Cell(NOT_MEASURED)
    n = () if found.n == of else (f"n = {found.n}",)
    if found.sd is None:
        return Cell(form(found.mean), ("no spread", *n))
    return Cell(form(found.mean), (f"sd {(width or form)(found.sd)}", f"{form(found.low)} to {form(found.high)}", *n))
