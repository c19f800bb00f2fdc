"""What every figure shares: its frame of words, one colour a method, short names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from tasks.core.results import RunInfo
from tasks.reporting.charts.style import INK, PALETTE, Spec
from tasks.reporting.charts.svg import inline_svg
from tasks.reporting.formats import finite
from tasks.reporting.views.pairs import Geometry

MOST_ROWS = 4_000
"""Rows of one figure's numbers that a page carries; of more, it names the file beside it."""

MOST_LINES = 9
"""Lines that a panel can show apart; of more, the extremes are drawn in colour and the others thin and grey."""

KNOWN = (
    "sft", "rft", "dft", "rift", "offline_grpo", "dpo", "ipo", "simpo", "kto", "asft", "online_grpo", "sft_dpo",
    "distillation",
)  # fmt: skip
_LONGEST = 22


@dataclass(frozen=True)
class Picture:
    """A figure of the report. ``label``: what it shows, for who cannot see it; ``spec``: its Vega-Lite specification
    with the numbers drawn; ``note``: how they were computed and over what n; ``table``: the key of their table."""

    key: str
    title: str
    label: str
    spec: Spec
    note: str
    table: str
    numbers: pl.DataFrame
    """What was drawn, at full precision."""
    file: str
    """Where a reader finds them if they are more than `MOST_ROWS`."""

    @property
    def data(self) -> dict[str, Any]:
        """The numbers as a page carries them: ``{"columns", "rows"}``, or ``{"file"}`` where they are many."""
        if self.numbers.height > MOST_ROWS:
            return {"file": self.file}
        rows = [[finite(value) if isinstance(value, float) else value for value in row] for row in self.numbers.rows()]
        return {"columns": self.numbers.columns, "rows": rows}

    @cached_property
    def svg(self) -> str:
        """The drawing, to stand inside a page."""
        return inline_svg(self.key, self.label, self.spec)


def colour_of(info: RunInfo, view: Geometry) -> str:
    """One colour a method, the same in every figure; ink for the base and the teacher."""
    if info not in view.runs:
        return INK
    present = dict.fromkeys(run.method for run in view.runs)
    # A study's methods keep their colours from report to report; adapters of others have methods of their own.
    methods = dict.fromkeys([*(KNOWN if present.keys() & set(KNOWN) else ()), *present])
    return PALETTE[list(methods).index(info.method) % len(PALETTE)]


def label_of(info: RunInfo, view: Geometry) -> str:
    """A name that fits beside an axis: of a long one the middle is left out, and a number tells it from its like."""
    label = short(info.run)
    if info in view.runs and any(other != info and short(other.run) == label for other in view.runs):
        return f"{view.runs.index(info) + 1}: {label}"
    return label


def short(name: str, most: int = _LONGEST) -> str:
    """``name``, of one longer than ``most`` characters its beginning and its end."""
    keep = most // 2
    return name if len(name) <= most else f"{name[: keep - 1]}…{name[-keep:]}"


def apart(runs: Sequence[RunInfo], view: Geometry) -> list[RunInfo]:
    """The runs that are drawn in colour: all, or the reference with the nearest and the farthest to it."""
    if len(runs) <= MOST_LINES or view.reference is None:
        return list(runs[:MOST_LINES])
    reference = view.reference
    others = [info for info in runs if info != reference]
    others.sort(key=lambda info: -(view.cosine(info.run, reference.run) or -2.0))
    half = (MOST_LINES - 1) // 2
    chosen = [*others[:half], *others[-half:]]
    return [info for info in runs if info == reference or info in chosen]
