"""Pairs of runs as rows of strings: every measure with its interval, the noise floors and the null."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.core.contracts import RunInfo
from tasks.reporting.formats import NOT_MEASURED, number, size
from tasks.reporting.notes import both_nulls, count, floor_note, interval, interval_note, percentile
from tasks.reporting.tables.views import NO_UPDATE, Cell, Table, said
from tasks.reporting.views.floors import KINDS
from tasks.reporting.views.pairs import IS_FLOOR, IS_START, Estimate, Geometry, across_note, pairs

MOST_PAIRS = 60
"""Rows of a table of pairs; the frame beside the page has all."""

NULL_ROW = "random subspaces (null)"

OWN = -1
"""Stands for each pair's own largest k."""

_WITHOUT_NULL = ("norm_ratio",)
"""Measures of size: random subspaces have none."""

Pair = tuple[RunInfo, RunInfo]


@dataclass(frozen=True)
class Column:
    """One measure of the table. ``k`` may be `OWN`."""

    title: str
    metric: str
    decimals: int
    k: int | None = None
    beside: bool = False
    """Whether interval, null and percentile stand beside every value; the others' nulls are in the last row."""


def pair_tables(view: Geometry) -> list[Table]:
    """The pairs with the reference, then all others."""
    every = pairs(view)
    if view.reference is None:
        return [_pair_table("pairs", "Pairs of runs", every, view)]
    near = [pair for pair in every if view.twin(*pair) or view.reference in pair]
    others = [pair for pair in every if view.twin(*pair) is None and view.reference not in pair]
    first = _pair_table("pairs", f"Against {view.reference.run}", near, view)
    return [first, _pair_table("other-pairs", "All other pairs", others, view)] if others else [first]


def _pair_table(key: str, title: str, chosen: Sequence[Pair], view: Geometry) -> Table:
    shown = sorted(chosen, key=lambda pair: _order(pair, view))[:MOST_PAIRS] if len(chosen) > MOST_PAIRS else chosen
    cut = ""
    if len(shown) < len(chosen):
        title = f"{title}: the {len(shown)} nearest of {len(chosen)}"
        cut = f"Only the {len(shown)} pairs of the highest cosine stand here; pair_metrics.parquet has all. "
    columns = columns_of(view)
    base = (Cell("base"), Cell("any run"), *(Cell(NO_UPDATE) for _ in columns))
    rows = [_pair_row(_oriented(pair, view), columns, view) for pair in shown]
    floors = [_floor_row(kind, columns, view) for kind in KINDS]
    null = _null_row([_oriented(pair, view) for pair in chosen], columns, view)
    marks = {0: "base", **{i: "floor" for i, pair in enumerate(shown, start=1) if view.twin(*pair)}}
    marks |= {1 + len(rows) + i: "floor" for i in range(len(floors))} | {1 + len(rows) + len(floors): "base"}
    note = (
        f"{cut}Angles: principal angles between left singular subspaces, degrees, median over "
        f"{count(view.modules, 'module')}; worst: the largest of them, smallest: that of the two directions in which "
        'the subspaces are nearest, the other reading of a "top-1 angle". u1, v1: first left and right singular '
        "vectors, phi: overlap of the subspaces, mean over modules; norm ratio and orthogonal fraction (share of the "
        "first run's norm outside the second's direction, module by module) of the first run against the second. "
        f"{interval_note(view)} {floor_note(view)}"
    )
    header = ("Run", "and", *(column.title for column in columns))
    return Table(key, title, header, (base, *rows, *floors, null), note, words=2, marks=marks)


def columns_of(view: Geometry) -> list[Column]:
    """The measures of a pair that a table shows."""
    worst = [k for k in view.ks if k > 1][-3:]
    top = max(view.ks, default=None)
    angles = [Column("Angle of u1 and u1', deg", "angle_left", 1, 1, beside=True)]
    angles += [Column(f"Worst of top-{k} angles, deg", "angle_left", 1, k, beside=True) for k in worst]
    if worst:
        angles.append(Column(f"Smallest of top-{worst[-1]} angles, deg", "angle_min_left", 1, worst[-1], beside=True))
    if top is not None and max(view.tops.values()) > top:
        angles.append(Column("Worst at the largest k, deg", "angle_left", 1, OWN, beside=True))
    return [
        Column("Cosine", "cosine", 3, beside=True),
        *angles,
        Column("|u1 u1'|", "u1_overlap", 3),
        Column("|v1 v1'|", "v1_overlap", 3),
        Column(f"phi, top-{top}" if top else "phi", "phi_left", 3, top),
        Column("Norm ratio", "norm_ratio", 2),
        Column("Orthogonal fraction", "orthogonal_fraction", 3),
    ]


def _order(pair: Pair, view: Geometry) -> tuple[bool, float]:
    cosine = view.cosine(pair[0].run, pair[1].run)
    return view.twin(*pair) is None, 2.0 if cosine is None else -cosine


def _oriented(pair: Pair, view: Geometry) -> Pair:
    """The reference second: the orthogonal fraction is that of the other run outside it."""
    return (pair[1], pair[0]) if pair[0] == view.reference else pair


def _estimate(pair: Pair, column: Column, view: Geometry) -> tuple[Estimate, int | None]:
    a, b = pair[0].run, pair[1].run
    k = view.top(a, b) if column.k == OWN else column.k
    return view.estimate(a, b, column.metric, k), k


def _pair_row(pair: Pair, columns: Sequence[Column], view: Geometry) -> tuple[Cell, ...]:
    run, other = pair
    standing = view.standing(run, other)
    cells = []
    for column in columns:
        found, k = _estimate(pair, column, view)
        if found.value is None:
            cells.append(Cell(view.missing(run.run, other.run, column.metric, k)))
            continue
        subs = said(interval(found, column.decimals) if column.beside else "")
        if column.k == OWN:
            subs += (f"top-{k}",)
        if column.beside:
            null = (
                "" if found.null is None or column.metric == "cosine" else f"null {number(found.null, column.decimals)}"
            )
            rank = percentile(found)
            subs += said(null) + said(f"percentile {rank}" if rank else "") + said(both_nulls(found))
        if column.metric == "cosine":
            subs += (*said(across_note(view, run, other)), *said(standing))
        cells.append(Cell(_shown(found.value, column), subs))
    return (Cell(run.run, said(standing if standing in (IS_FLOOR, IS_START) else "")), Cell(other.run), *cells)


def _shown(value: float, column: Column) -> str:
    return (size if column.metric in _WITHOUT_NULL else number)(value, column.decimals)


def _floor_row(kind: str, columns: Sequence[Column], view: Geometry) -> tuple[Cell, ...]:
    """Mean over the pairs that measure this floor, and their range."""
    cells = []
    for column in columns:
        own = {view.top(a, b) for a, b in view.twins[kind]}
        if column.k == OWN and len(own) > 1:
            cells.append(Cell("of several k"))
            continue
        k = next(iter(own), None) if column.k == OWN else column.k
        found = view.floor_of(kind, column.metric, k)
        if found is None:
            why = {view.missing(a, b, column.metric, k) for a, b in view.twins[kind]}
            cells.append(Cell(min(why, default=NOT_MEASURED)))
            continue
        low, high = _shown(found.lowest, column), _shown(found.highest, column)
        subs = said(f"{low} to {high}" if found.n > 1 else "") + said(f"top-{k}" if column.k == OWN else "")
        cells.append(Cell(_shown(found.mean, column), subs))
    pairs_of = view.twins[kind]
    of = count(len(pairs_of), "pair") if pairs_of else NOT_MEASURED
    return (Cell(f"noise floor: {KINDS[kind]}"), Cell(of, said("mean, range" if len(pairs_of) > 1 else "")), *cells)


def _null_row(chosen: Sequence[Pair], columns: Sequence[Column], view: Geometry) -> tuple[Cell, ...]:
    """What random subspaces give: one value where all pairs have one shape, otherwise mean and range."""
    cells = []
    for column in columns:
        nulls = [null for pair in chosen if (null := _estimate(pair, column, view)[0].null) is not None]
        if not nulls:
            cells.append(Cell("none" if column.metric in _WITHOUT_NULL else NOT_MEASURED))
            continue
        low, high = number(min(nulls), column.decimals), number(max(nulls), column.decimals)
        mean = number(sum(nulls) / len(nulls), column.decimals)
        cells.append(Cell(mean, said(f"{low} to {high}" if low != high else "")))
    return (Cell(NULL_ROW), Cell("same shape"), *cells)
