"""The methods' gradients before the first step, ready to look up beside the cosines of what was trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import polars as pl

from tasks.core.results import RunInfo
from tasks.reporting.estimates import Estimate
from tasks.reporting.views.pairs import Geometry


@dataclass(frozen=True)
class Start(Estimate):
    """Cosine of two methods' gradients of lora_B at the base, its interval over draws of rows.

    ``corrected``: the same without the noise of the rows; ``dense``: that of the gradients of the weights themselves;
    ``own`` and ``other``: of each method on the two halves of the rows with itself.
    """

    corrected: Estimate = field(default_factory=partial(Estimate, None))
    dense: float | None = None
    own: float | None = None
    other: float | None = None


@dataclass(frozen=True)
class Before:
    """GRADIENTS of a study. ``values``: (method, other, layer) -> `Start`; layer None: over all modules."""

    values: Mapping[tuple[str, str, int | None], Start]
    examples: Mapping[str, int]
    """Method -> completions or pairs that it has of the rows."""

    @cached_property
    def layers(self) -> tuple[int, ...]:
        return tuple(sorted({layer for _, _, layer in self.values if layer is not None}))

    def of(self, method: str, other: str, layer: int | None = None) -> Start | None:
        """Either way round; None where it was not measured."""
        if (method, other, layer) in self.values:
            return self.values[method, other, layer]
        found = self.values.get((other, method, layer))
        return found and replace(found, own=found.other, other=found.own)


def before_of(gradients: pl.DataFrame) -> Before | None:
    """From GRADIENTS; None where nothing was measured."""
    rows = gradients.filter(pl.col("module") == "*", pl.col("projection").is_null())
    if rows.is_empty():
        return None
    columns = ["projected", "low", "high", "corrected", "corrected_low", "corrected_high", "cosine", "half_a", "half_b"]
    values = {
        (a, b, layer): Start(value, low, high, None, Estimate(*found), dense, own, other)
        for a, b, layer, value, low, high, *found, dense, own, other in rows.select(
            "method_a", "method_b", "layer", *columns
        ).iter_rows()
    }
    examples = {
        method: n
        for side in ("a", "b")
        for method, n in rows.select(f"method_{side}", f"examples_{side}").unique().iter_rows()
    }
    return Before(values, examples)


def trained_as(view: Geometry) -> dict[str, RunInfo]:
    """Method -> its first run of the reference's initialisation: what its gradient is held against."""
    found: dict[str, RunInfo] = {}
    for info in view.runs:
        if view.reference is None or info.seed == view.reference.seed:
            found.setdefault(info.method, info)
    return found
