"""Group runs by a pairwise relation, and find those whose updates are one and the same."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

from tasks.reporting.views.pairs import Geometry


def grouped(alike: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Runs joined by pairs, each group in the order in which it was met."""
    groups: list[list[str]] = []
    for pair in alike:
        touched = [group for group in groups if set(group) & set(pair)]
        merged = list(dict.fromkeys([*(run for group in touched for run in group), *pair]))
        groups = [group for group in groups if group not in touched] + [merged]
    return groups


def identical(view: Geometry) -> list[list[str]]:
    """Groups of runs whose updates are equal but for rounding: nothing that was trained tells them apart."""
    return grouped((a.run, b.run) for a, b in combinations(view.runs, 2) if view.same(a.run, b.run))
