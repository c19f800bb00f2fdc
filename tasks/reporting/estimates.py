"""A measured number with its interval: one type for what the frames hold of pairs, paths and distributions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """``low`` and ``high``: its 95 % interval; ``n``: what it is over. None: not measured, not defined or not told."""

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
