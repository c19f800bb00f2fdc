"""Barriers on the straight paths between updates as rows of strings, the noise floors beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tasks.reporting.formats import NOT_MEASURED, number, significant
from tasks.reporting.notes import count
from tasks.reporting.tables.pairs import MOST_PAIRS
from tasks.reporting.tables.views import NO_UPDATE, Cell, Cells, Table, said
from tasks.reporting.views.floors import KINDS
from tasks.reporting.views.pairs import Geometry
from tasks.reporting.views.paths import MISSED_BELOW, READINGS, Barrier, Names, Paths, base_readings, near_and_other
from tasks.reporting.views.study import Study

Column = tuple[str, bool]
"""A reading, and whether the updates were scaled to one norm."""


def barrier_tables(study: Study) -> list[Table]:
    """The pairs with the reference and the noise floors, then all others that were measured."""
    view = study.geometry
    paths = study.paths
    if not paths.readings:
        return [Table("barriers", "Barriers", (), (), "No path between two updates was read in this study.")]
    near, others = near_and_other(view, paths.pairs())
    own = base_readings(study.connectivity, study.base.run)
    title = f"Barriers on the way to {view.reference.run}" if view.reference else "Barriers"
    tables = [_table("barriers", title, near, paths, view, own)]
    if others:
        tables.append(_table("other-barriers", "Barriers of all other pairs", others, paths, view, own))
    return tables


def _table(
    key: str, title: str, chosen: Sequence[Names], paths: Paths, view: Geometry, own: Mapping[str, float]
) -> Table:
    columns = [
        (reading, matched) for reading in paths.readings for matched in (False, True) if _has(paths, (reading, matched))
    ]
    shown, cut = chosen, ""
    if len(chosen) > MOST_PAIRS:
        shown = sorted(chosen, key=lambda pair: -_height(pair, columns, paths))[:MOST_PAIRS]
        title = f"{title}: the {MOST_PAIRS} highest of {len(chosen)} pairs"
        cut = f"Only the {MOST_PAIRS} pairs of the highest barriers stand here; barriers.parquet has all. "
    rows = [Cells("base", "itself", *(_base_cell(own, *column) for column in columns), mark="base")]
    for run, other in shown:
        replicate = view.replicate_label(run, other)
        cells = (_cell(paths.find(run, other, matched, reading), reading) for reading, matched in columns)
        rows.append(Cells(Cell(run, said(replicate)), other, *cells, mark="floor" if replicate else ""))
    for kind in KINDS:
        pairs = view.replicate_pairs[kind]
        of = Cell(count(len(pairs), "pair") if pairs else NOT_MEASURED, said("mean, range" if len(pairs) > 1 else ""))
        cells = (_floor_cell(pairs, column, paths) for column in columns)
        rows.append(Cells(f"noise floor: {KINDS[kind]}", of, *cells, mark="floor"))
    header = ("Run (alpha 0)", "and (alpha 1)", *(_title(column) for column in columns))
    return Table(key, title, header, rows, f"{cut}{barrier_note(paths)}{_chance_note(chosen, paths)}", words=2)


def barrier_note(paths: Paths) -> str:
    """How a barrier and its interval are had, and over what n."""
    sizes = []
    for reading in paths.readings:
        counts = sorted({barrier.n for key, barrier in paths.barriers.items() if key[3] == reading and barrier.n})
        if counts:
            many = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
            sizes.append(f"{READINGS[reading].columns[0].title.lower()} {many}")
    return (
        "The model on the way is the base with (1 - alpha) of the first update and alpha of the second, the products "
        "B A interpolated, not the factors. Barrier: largest height, over the alphas that were read, of the loss above "
        "the straight line between its two ends; that of accuracy is of the error, in points. Norm-matched: both "
        "updates scaled to the geometric mean of their norms. [low, high]: 95 % over problems, of all alphas at once: "
        "only a low above 0 shows a barrier. The base's row has its own loss and accuracy on the same problems. "
        f"Problems: {', '.join(sizes) or NOT_MEASURED}."
    )


def _chance_note(chosen: Sequence[Names], paths: Paths) -> str:
    """How many intervals of a column lie above 0 by chance alone: so many paths are so many tests."""
    known = {pair for pair in paths.pairs() if pair in chosen or pair[::-1] in chosen}
    if not known:
        return ""
    return (
        f" Each interval stands for itself, so of {count(len(known), 'path')} without a barrier about "
        f"{significant(MISSED_BELOW * len(known), 2)} a column would have a low above 0 by chance."
    )


def _base_cell(own: Mapping[str, float], reading: str, matched: bool) -> Cell:
    """The base has no path; what it reads itself stands beside that, once."""
    if matched or reading not in own:
        return Cell(NO_UPDATE)
    value = READINGS[reading].text(own[reading])
    return Cell(NO_UPDATE, (f"accuracy {value} %" if reading == "accuracy" else f"loss {value}",))


def _has(paths: Paths, column: Column) -> bool:
    return any((key[3], key[2]) == column for key in paths.barriers)


def _title(column: Column) -> str:
    reading = READINGS[column[0]]
    return f"{reading.columns[0].title}, {'norm-matched, ' if column[1] else ''}{reading.unit}"


def _height(pair: Names, columns: Sequence[Column], paths: Paths) -> float:
    """What pairs are sorted by: the highest barrier, one point of error counted as 0.01."""
    found = [paths.find(*pair, matched, reading) for reading, matched in columns]
    return max((barrier.value for barrier in found if barrier and barrier.value is not None), default=-1.0)


def _cell(found: Barrier | None, reading: str) -> Cell:
    if found is None or found.value is None:
        return Cell(NOT_MEASURED)
    text = READINGS[reading].text
    where = f"at alpha {number(found.alpha, 2)}" if found.alpha is not None else ""
    return Cell(text(found.value), (*said(found.interval(text)), *said(where)))


def _floor_cell(replicates: Sequence[Names], column: Column, paths: Paths) -> Cell:
    reading, matched = column
    found = paths.floor(replicates, matched, reading)
    if found is None:
        return Cell(NOT_MEASURED)
    text = READINGS[reading].text
    return Cell(text(found.mean), said(found.range(text) if found.n > 1 else ""))
