"""Noise floors: how far a method is from itself when only its data's order, or its LoRA initialisation, changes."""

from __future__ import annotations

from collections.abc import Iterable

from tasks.core.results import RunInfo
from tasks.reporting.estimates import Spread

ORDER, INITIALISATION = "order", "initialisation"
KINDS = {ORDER: "data order", INITIALISATION: "initialisation"}
"""Kind of floor -> how it reads."""

SHARED_START = 0.5
"""Cosine of two lora_A above which they began as one: training moves lora_A little, and two draws are near 0."""


def same_initialisation(a: RunInfo, b: RunInfo, lora_a_cosine: float | None) -> bool | None:
    """Whether two runs began from one LoRA initialisation; None where it cannot be told.

    By the seeds where both know theirs, else by the cosine of their trained lora_A (None: not measured, or of two
    ranks).
    """
    if a.seed is not None and b.seed is not None:
        return a.seed == b.seed
    return None if lora_a_cosine is None else lora_a_cosine > SHARED_START


def kind_of(a: RunInfo, b: RunInfo, lora_a_cosine: float | None) -> str | None:
    """The floor that a pair of runs measures: `ORDER`, `INITIALISATION`, or None.

    Both need one method and one learning rate. `ORDER`: the same initialisation, not known to have the same data
    order. `INITIALISATION`: another one, whatever the order of the data.
    """
    if (a.method, a.lr) != (b.method, b.lr):
        return None
    same = same_initialisation(a, b, lora_a_cosine)
    if same is None:
        return None
    if not same:
        return INITIALISATION
    repeated = a.data_seed is not None and a.data_seed == b.data_seed
    return None if repeated else ORDER


def floor_of(values: Iterable[float | None]) -> Spread | None:
    """A noise floor: the spread of the values that were measured; None where none was."""
    known = tuple(value for value in values if value is not None)
    return Spread(known) if known else None
