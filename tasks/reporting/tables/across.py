"""Two methods across data orders as rows of strings: what a noise floor judges, beside the value in one order."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import combinations

from tasks.core.results import RunInfo
from tasks.reporting.formats import number, percent
from tasks.reporting.metrics import CKA
from tasks.reporting.tables.pairs import OWN, columns_of
from tasks.reporting.tables.views import Cell, Table, said
from tasks.reporting.views.across import Likeness, likeness
from tasks.reporting.views.pairs import AT_FLOOR, BELOW_FLOOR, Geometry
from tasks.reporting.views.similarity import Similarity

_NOTE = (
    "Two runs in one data order share that order's noise, so their cosine lies above any noise floor even where the "
    "methods differ. Across data orders: a run of the one method in one order with a run of the other in another; this "
    "is what the noise floor judges, the same of two runs of ONE method (of either of the two). Without noise: the "
    "inner product across orders over the geometric mean of those of each method with itself. Difference: the norm of "
    "the one update less the other, in one order, as a share of the first; it comes back: cosine of that difference in "
    "one order with the same in another (1: systematic, 0: noise). Both take replicates of both methods "
    "(replicates=all)."
)
_NEEDS = "needs replicates of both"

Pair = tuple[RunInfo, RunInfo]


def across_tables(view: Geometry, cka: Similarity | None) -> list[Table]:
    """The cosines of every two methods across data orders, and their other measures; none without replicates."""
    chosen = [pair for pair in _methods(view) if view.likeness(*pair, "cosine").across]
    if not chosen:
        return []
    return [_cosines(chosen, view), _others(chosen, view, cka)]


def _methods(view: Geometry) -> list[Pair]:
    """One run a method and rate of the reference's initialisation, each with every other; the reference first."""
    first: dict[tuple[str, float | None, int | None], RunInfo] = {}
    for info in view.runs:
        if view.reference is None or info.seed == view.reference.seed:
            first.setdefault((info.method, info.lr, info.seed), info)
    return list(combinations(sorted(first.values(), key=lambda info: info != view.reference), 2))


def _cosines(chosen: Sequence[Pair], view: Geometry) -> Table:
    rows = []
    for a, b in chosen:
        found, apart = view.likeness(a, b, "cosine"), view.difference(a, b)
        standing = view.standing(a, b)
        verdict = {AT_FLOOR: "no farther than noise", BELOW_FLOOR: "farther than noise"}.get(standing, standing)
        difference = (Cell(_NEEDS), Cell(_NEEDS), Cell(_NEEDS))
        if apart is not None:
            difference = (
                Cell(number(apart.deattenuated, 3)),
                Cell(percent(apart.share)),
                _values(apart.repeats, 2),
            )
        rows.append((Cell(a.run), Cell(b.run), *_like(found, 3), Cell(verdict), *difference))
    header = (
        *("Method", "and", "Cosine in one data order", "Across data orders", "Noise floor", "Judged"),
        *("Without noise", "Difference, % of the first", "It comes back"),
    )
    return Table("across", "Like with like: cosines across data orders", header, tuple(rows), _NOTE, words=2)


def _others(chosen: Sequence[Pair], view: Geometry, cka: Similarity | None) -> Table:
    measures = [one for one in columns_of(view) if one.metric.nearer and one.metric.name != "cosine" and one.k != OWN]
    rows = []
    for a, b in chosen:
        found = [(one.title, view.likeness(a, b, one.metric.name, one.k), one.decimals) for one in measures]
        if cka is not None:
            last = cka.layers[-1]
            states = likeness(view.replicates(a), view.replicates(b), partial(cka.value, layer=last))
            found.append((f"CKA at the last layer ({last})", states, CKA.decimals))
        rows += [(Cell(a.run), Cell(b.run), Cell(title), *_like(one, decimals)) for title, one, decimals in found]
    header = ("Method", "and", "Measure", "In one data order", "Across data orders", "Noise floor")
    title = "Like with like: angles, overlaps and CKA"
    return Table("across-measures", title, header, tuple(rows), _NOTE, words=3)


def _like(found: Likeness, decimals: int) -> tuple[Cell, ...]:
    return tuple(_values(values, decimals) for values in (tuple(found.one_order.values()), found.across, found.floor))


def _values(values: Sequence[float], decimals: int) -> Cell:
    """Their mean, beneath it the range and how many there are."""
    if not values:
        return Cell("-")
    low, high = number(min(values), decimals), number(max(values), decimals)
    subs = (*said(f"{low} to {high}" if low != high else ""), f"n = {len(values)}") if len(values) > 1 else ()
    return Cell(number(sum(values) / len(values), decimals), subs)
