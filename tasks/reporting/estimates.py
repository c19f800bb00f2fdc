"""How sure a number is: its interval, and how far it lies apart over replicates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A measured number.

    ``low`` and ``high``: its 95 % interval; ``n``: what it is over. None: not measured, not defined or not told.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None

    @property
    def above_zero(self) -> bool:
        """Whether the whole interval is."""
        return self.low is not None and self.low > 0

    def interval(self, form: Callable[[float], str]) -> str:
        """``'[low, high]'``, each as ``form`` writes it; empty where there is none."""
        return "" if self.low is None or self.high is None else f"[{form(self.low)}, {form(self.high)}]"


@dataclass(frozen=True)
class Spread:
    """The values of one number over replicates (or over pairs of them), at least one: how far a method is from itself.

    Where the values are differences of two replicates, `largest` and `sd_of_one` say how far one run is from another.
    """

    values: tuple[float, ...]

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def lowest(self) -> float:
        return min(self.values)

    @property
    def highest(self) -> float:
        return max(self.values)

    def range(self, form: Callable[[float], str]) -> str:
        """``'lowest to highest'``, each as ``form`` writes it."""
        return f"{form(self.lowest)} to {form(self.highest)}"

    @property
    def mean(self) -> float:
        return sum(self.values) / self.n

    @property
    def sd(self) -> float | None:
        """Of the sample (n - 1); None for one value, which has no spread."""
        squares = math.fsum((value - self.mean) ** 2 for value in self.values)
        return math.sqrt(squares / (self.n - 1)) if self.n > 1 else None

    @property
    def largest(self) -> float:
        """The largest difference, whatever its sign."""
        return max(abs(value) for value in self.values)

    @property
    def sd_of_one(self) -> float:
        """Standard deviation of a single run from differences of two: the root of half their mean square. Over all
        pairs of one group of runs that is the square root of their sample variance."""
        return float((sum(value**2 for value in self.values) / (2 * self.n)) ** 0.5)


def spread(values: Iterable[float | None]) -> Spread | None:
    """The spread of the values that are known and finite; None where none is."""
    known = tuple(value for value in values if value is not None and math.isfinite(value))
    return Spread(known) if known else None
