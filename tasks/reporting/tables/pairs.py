"""Pairs of runs as rows of strings: every measure with its interval, the noise floors and the null."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.core.results import RunInfo
from tasks.reporting.formats import NOT_MEASURED, number
from tasks.reporting.metrics import PAIR, Ks, Metric
from tasks.reporting.metrics import notes as metric_notes
from tasks.reporting.notes import both_nulls, count, floor_note, interval, interval_note, percentile
from tasks.reporting.tables.views import NO_UPDATE, Cell, Cells, Table, said
from tasks.reporting.views.floors import KINDS
from tasks.reporting.views.pairs import IS_FLOOR, IS_START, Geometry, PairEstimate, across_note, pairs

MOST_PAIRS = 60
"""Rows of a table of pairs; the frame beside the page has all."""

NULL_ROW = "random subspaces (null)"

COSINES = ("cosine", "activation_cosine")
"""Metrics that say how they stand to the noise floor."""

OWN = -1
"""Stands for each pair's own largest k."""

Pair = tuple[RunInfo, RunInfo]


@dataclass(frozen=True)
class Shown:
    """One metric at one dimension, as a column of the table; ``k`` may be `OWN`. Where not `Metric.beside`, the null is
    in the last row alone."""

    title: str
    metric: Metric
    k: int | None
    decimals: int

    def text(self, value: float) -> str:
        return self.metric.text(value, self.decimals)


def pair_tables(view: Geometry) -> list[Table]:
    """The pairs with the reference, then all others."""
    every = pairs(view)
    if view.reference is None:
        return [_pair_table("pairs", "Pairs of runs", every, view)]
    near = [pair for pair in every if view.replicate(*pair) or view.reference in pair]
    others = [pair for pair in every if view.replicate(*pair) is None and view.reference not in pair]
    first = _pair_table("pairs", f"Against {view.reference.run}", near, view)
    return [first, _pair_table("other-pairs", "All other pairs", others, view)] if others else [first]


def _pair_table(key: str, title: str, chosen: Sequence[Pair], view: Geometry) -> Table:
    shown = sorted(chosen, key=lambda pair: _order(pair, view))[:MOST_PAIRS] if len(chosen) > MOST_PAIRS else chosen
    cut = ""
    if len(shown) < len(chosen):
        title = f"{title}: the {len(shown)} nearest of {len(chosen)}"
        cut = f"Only the {len(shown)} pairs of the highest cosine stand here; pair_metrics.parquet has all. "
    columns = columns_of(view)
    base = Cells("base", "any run", *[NO_UPDATE] * len(columns), mark="base")
    rows = [_pair_row(_oriented(pair, view), columns, view) for pair in shown]
    floors = [_floor_row(kind, columns, view) for kind in KINDS]
    null = _null_row([_oriented(pair, view) for pair in chosen], columns, view)
    about = metric_notes(PAIR, count(view.modules, "module"))
    note = f"{cut}{about} {interval_note(view)} {floor_note(view)}"
    header = ("Run", "and", *(column.title for column in columns))
    return Table(key, title, header, (base, *rows, *floors, null), note, words=2)


def columns_of(view: Geometry) -> list[Shown]:
    """The metrics of a pair that a table shows, in the catalogue's order; not those by which no pair was measured."""
    measured = {metric for *_, metric, _ in view.values} or {metric.name for metric in PAIR}
    return [
        Shown(column.called(k), metric, k, metric.decimals if column.decimals is None else column.decimals)
        for metric in PAIR
        if metric.name in measured
        for column in metric.columns
        for k in _dimensions(column.ks, view)
    ]


def _dimensions(ks: Ks, view: Geometry) -> list[int | None]:
    """The subspace dimensions that stand in columns; that of "own" is `OWN`, in a column of its own where some pair has
    more dimensions than all pairs have."""
    top = max(view.ks, default=None)
    wider = [k for k in view.ks if k > 1][-3:]
    own = [OWN] if top is not None and max(view.tops.values()) > top else []
    found: dict[Ks, list[int | None]] = {
        "": [None], "first": [1], "wider": [*wider], "widest": [*wider[-1:]], "common": [top], "own": [*own],
    }  # fmt: skip
    return found[ks]


def _order(pair: Pair, view: Geometry) -> tuple[bool, float]:
    cosine = view.cosine(pair[0].run, pair[1].run)
    return view.replicate(*pair) is None, 2.0 if cosine is None else -cosine


def _oriented(pair: Pair, view: Geometry) -> Pair:
    """The reference second: the orthogonal fraction is that of the other run outside it."""
    return (pair[1], pair[0]) if pair[0] == view.reference else pair


def _estimate(pair: Pair, column: Shown, view: Geometry) -> tuple[PairEstimate, int | None]:
    a, b = pair[0].run, pair[1].run
    k = view.top(a, b) if column.k == OWN else column.k
    return view.estimate(a, b, column.metric.name, k), k


def _pair_row(pair: Pair, columns: Sequence[Shown], view: Geometry) -> Cells:
    run, other = pair
    standing = view.standing(run, other)
    cells = []
    for column in columns:
        found, k = _estimate(pair, column, view)
        if found.value is None:
            cells.append(Cell(view.missing(run.run, other.run, column.metric.name, k)))
            continue
        subs = said(interval(found, column.decimals) if column.metric.beside else "")
        if column.k == OWN:
            subs += (f"top-{k}",)
        if column.metric.beside:
            rank = percentile(found)
            null = f"null {number(found.null, column.decimals)}" if found.null else ""
            subs += said(null) + said(f"percentile {rank}" if rank else "") + said(both_nulls(found))
        if (name := column.metric.name) in COSINES:
            subs += (*said(across_note(view, run, other, name)), *said(view.standing(run, other, name)))
        cells.append(Cell(column.text(found.value), subs))
    return Cells(Cell(run.run, said(standing if standing in (IS_FLOOR, IS_START) else "")), other.run, *cells,
                 mark="floor" if view.replicate(run, other) else "")  # fmt: skip


def _floor_row(kind: str, columns: Sequence[Shown], view: Geometry) -> Cells:
    """Mean over the pairs that measure this floor, and their range."""
    cells = []
    for column in columns:
        own = {view.top(a, b) for a, b in view.replicate_pairs[kind]}
        if column.k == OWN and len(own) > 1:
            cells.append(Cell("of several k"))
            continue
        k = next(iter(own), None) if column.k == OWN else column.k
        found = view.floor_of(kind, column.metric.name, k)
        if found is None:
            why = {view.missing(a, b, column.metric.name, k) for a, b in view.replicate_pairs[kind]}
            cells.append(Cell(min(why, default=NOT_MEASURED)))
            continue
        subs = said(found.range(column.text) if found.n > 1 else "") + said(f"top-{k}" if column.k == OWN else "")
        cells.append(Cell(column.text(found.mean), subs))
    pairs_of = view.replicate_pairs[kind]
    of = count(len(pairs_of), "pair") if pairs_of else NOT_MEASURED
    over = Cell(of, said("mean, range" if len(pairs_of) > 1 else ""))
    return Cells(f"noise floor: {KINDS[kind]}", over, *cells, mark="floor")


def _null_row(chosen: Sequence[Pair], columns: Sequence[Shown], view: Geometry) -> Cells:
    """What random subspaces give: one value where all pairs have one shape, otherwise mean and range."""
    cells = []
    for column in columns:
        nulls = [null for pair in chosen if (null := _estimate(pair, column, view)[0].null) is not None]
        if not nulls:
            cells.append(Cell(NOT_MEASURED if column.metric.null else "none"))
            continue
        low, high = number(min(nulls), column.decimals), number(max(nulls), column.decimals)
        mean = number(sum(nulls) / len(nulls), column.decimals)
        cells.append(Cell(mean, said(f"{low} to {high}" if low != high else "")))
    return Cells(NULL_ROW, "same shape", *cells, mark="base")
