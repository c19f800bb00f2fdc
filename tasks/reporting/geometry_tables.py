"""Views of the geometry as rows of strings: cosines, pairs of runs, sizes and ranks of the updates."""

from __future__ import annotations

from tasks.contracts import RunInfo
from tasks.reporting.findings import floor_note
from tasks.reporting.formats import number
from tasks.reporting.join import StudyTables, spectrum_value
from tasks.reporting.pairs import AT_FLOOR, IS_FLOOR, Geometry, cosine_matrix, is_twin, pairs
from tasks.reporting.tables import NO_UPDATE, Cell, Table, said


def matrix_table(view: Geometry) -> Table:
    """The numbers of the heat-map; the base has no update, hence no direction."""
    cosines = cosine_matrix(view)
    names = [info.run for info in view.runs]
    rows = [(Cell("base"), *(Cell(NO_UPDATE) for _ in names))]
    for i, info in enumerate(view.runs):
        standings = [view.standing(info, other) for other in view.runs]
        marked = [standing if standing in (AT_FLOOR, IS_FLOOR) else "" for standing in standings]
        rows.append((Cell(info.run), *(Cell(number(cosines[i, j], 3), said(mark)) for j, mark in enumerate(marked))))
    note = f"Over all entries of {view.modules} shared modules. {floor_note(view)}"
    return Table("cosines", "Cosine between updates", ("Run", *names), tuple(rows), note, marks={0: "base"})


def pair_tables(view: Geometry) -> list[Table]:
    """Angles, overlaps and orthogonal fractions: the pairs with the reference, then all others."""
    every = pairs(view)
    if view.reference is None:
        return [_pair_table("pairs", "Pairs of runs", every, view)]
    near = [pair for pair in every if is_twin(*pair) or view.reference in pair]
    others = [pair for pair in every if is_twin(*pair) or view.reference not in pair]
    first = _pair_table("pairs", f"Against {view.reference.run}", near, view)
    rest = [_pair_table("other-pairs", "All other pairs", others, view)] if len(others) > len(view.twins) else []
    return [first, *rest]


def _pair_table(key: str, title: str, chosen: list[tuple[RunInfo, RunInfo]], view: Geometry) -> Table:
    worst = f"Worst of top-{view.k} angles, deg" if view.k and view.k > 1 else "Worst angle, deg"
    header = ("Run", "and", "Cosine", "Top-1 angle, deg", worst, "|u1 u1'|", "|v1 v1'|", "Orthogonal fraction")
    base = (Cell("base"), Cell("any run"), *(Cell(NO_UPDATE) for _ in range(6)))
    note = (
        f"Angles between left singular subspaces, degrees, median over {view.modules} modules; overlaps of the first "
        "left (u1) and right (v1) singular vectors, mean over modules; orthogonal fraction: share of the first run's "
        f"norm outside the second's direction, module by module. {floor_note(view)}"
    )
    rows = tuple(_pair_row(*_oriented(pair, view), view) for pair in chosen)
    marks = {0: "base", **{i: "floor" for i, pair in enumerate(chosen, start=1) if is_twin(*pair)}}
    return Table(key, title, header, (base, *rows), note, words=2, marks=marks)


def _oriented(pair: tuple[RunInfo, RunInfo], view: Geometry) -> tuple[RunInfo, RunInfo]:
    """The reference second: the orthogonal fraction is that of the other run outside it."""
    return (pair[1], pair[0]) if pair[0] == view.reference else pair


def _pair_row(run: RunInfo, other: RunInfo, view: Geometry) -> tuple[Cell, ...]:
    standing = view.standing(run, other)
    worst = view.k if view.k and view.k > 1 else None
    values = (
        Cell(number(view.cosine(run.run, other.run), 3), said(standing)),
        Cell(number(view.value(run.run, other.run, "angle_left", 1), 1)),
        Cell(number(view.value(run.run, other.run, "angle_left", worst), 1)),
        *(Cell(number(view.value(run.run, other.run, name), 3)) for name in ("u1_overlap", "v1_overlap")),
        Cell(number(view.value(run.run, other.run, "orthogonal_fraction"), 3)),
    )
    return (Cell(run.run, said(IS_FLOOR if standing == IS_FLOOR else "")), Cell(other.run), *values)


def spectrum_table(tables: StudyTables, view: Geometry) -> Table:
    """Size and rank of every update."""
    measures = (("norm", 3), ("effective_rank", 2), ("participation_rank", 2), ("stable_rank", 2))
    rows = [(Cell("base"), *(Cell(NO_UPDATE) for _ in measures))]
    for info in view.runs:
        rows.append((Cell(info.run), *(Cell(number(spectrum_value(tables, info.run, m), d)) for m, d in measures)))
    return Table(
        "spectra",
        "Size and rank of the updates",
        ("Run", "Frobenius norm", "Effective rank", "Participation rank", "Stable rank"),
        tuple(rows),
        "Norm of alpha / r * BA over all modules; ranks from the singular values of each module, mean over modules.",
        marks={0: "base", **_twin_marks(view)},
    )


def _twin_marks(view: Geometry) -> dict[int, str]:
    return {i: "floor" for i, info in enumerate(view.runs, 1) if view.reference and is_twin(info, view.reference)}
