"""One sentence on what the cosines of all pairs say before training, after it, and weighted by inputs."""

from __future__ import annotations

import numpy as np

from tasks.reporting.claims.before_readings import FEWEST, kendall
from tasks.reporting.formats import number
from tasks.reporting.notes import count
from tasks.reporting.views.joined import GRADIENT, TRAINED, WEIGHTED, Joined, joined_pairs
from tasks.reporting.views.study import Study


def why_finding(study: Study) -> str:
    """How alike all pairs of methods rank before and after training, and which pair the weighting by inputs brings
    nearest; empty where fewer than two of the three cosines were measured."""
    pairs = joined_pairs(study)
    return " ".join(said for said in (_ranked(pairs), _weighted(pairs)) if said)


def _ranked(pairs: list[Joined]) -> str:
    both = [(_of(pair, GRADIENT), _of(pair, TRAINED)) for pair in pairs if {GRADIENT, TRAINED} <= pair.found.keys()]
    if len(both) < FEWEST:
        return ""
    first, last = np.array(both).T
    return (
        f"The first gradients and the trained updates rank {count(len(both), 'pair')} of methods with a Kendall's tau "
        f"of {number(float(kendall(first, last)), 2)} (1: one order; pairs share methods, so there is no p)."
    )


def _weighted(pairs: list[Joined]) -> str:
    both = [pair for pair in pairs if {TRAINED, WEIGHTED} <= pair.found.keys()]
    if not both:
        return ""
    moved = [_of(pair, WEIGHTED) - _of(pair, TRAINED) for pair in both]
    nearer, most = sum(by > 0 for by in moved), both[moved.index(max(moved))]
    if not nearer:
        return "Weighted by the inputs that occur, no pair of updates comes nearer."
    return (
        f"Weighted by the inputs that occur, {nearer} of {count(len(moved), 'pair')} come nearer, most of all "
        f"{most.a.run} and {most.b.run}, from {number(_of(most, TRAINED), 3)} to {number(_of(most, WEIGHTED), 3)}."
    )


def _of(pair: Joined, name: str) -> float:
    value = pair.value(name)
    assert value is not None
    return value
