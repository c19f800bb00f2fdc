"""What the activation-weighted cosine was measured on, and what of it is approximate, for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from tasks.core.results import StageResult
from tasks.core.stages import MOMENTS
from tasks.geometry.activations.moments import RANK
from tasks.reporting.notes import count

_WHAT = "Activation-weighted cosine"


def activation_notes(results: Sequence[StageResult]) -> list[str]:
    """Notes of the result of the stage `MOMENTS`, where it is among ``results``."""
    found = next((result for result in results if result.stage == MOMENTS.name), None)
    return [] if found is None else moments_notes(found.summary)


def moments_notes(summary: Mapping[str, Any]) -> list[str]:
    """``summary``: what `tasks.geometry.activations.measure.measure_moments` returned."""
    what = "text" if summary["of_file"] else "held-out problem"
    notes = [
        f"{_WHAT}: inputs of {count(summary['modules'], 'module')} under the base on {count(summary['texts'], what)}, "
        f"{count(summary['tokens'], 'token')}."
    ]
    if summary["cut"]:
        notes.append(f"{_WHAT}: {count(summary['cut'], 'text')} cut to the longest that is read.")
    if summary["low_rank"]:
        notes.append(
            f"{_WHAT}: {count(summary['low_rank'], 'input')} too wide to keep whole; of those the {RANK} leading "
            "directions and the diagonal of the second moment are taken, and off the diagonal at most "
            f"{100 * summary['outside']:.2g} % of its trace is left out."
        )
    return notes


def unweighted_note(pair_metrics: pl.DataFrame, weighted: pl.DataFrame) -> list[str]:
    """Says which modules of ``pair_metrics`` are not in ``weighted``; nothing where all are."""
    missing = sorted(set(pair_metrics["module"]) - set(weighted["module"]))
    if not missing:
        return []
    return [
        f"{_WHAT}: without {count(len(missing), 'module')} such as {missing[0]}, which the base does not give one "
        "input vector a token."
    ]
