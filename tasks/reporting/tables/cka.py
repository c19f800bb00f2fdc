"""CKA as rows of strings: every run against the base and the reference, debiased with the biased value beside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tasks.reporting.formats import NOT_MEASURED, number
from tasks.reporting.metrics import CKA
from tasks.reporting.notes import MOST_NAMED, named
from tasks.reporting.tables.pairs import MOST_PAIRS
from tasks.reporting.tables.views import Cell, Table, said
from tasks.reporting.views.join import StudyTables, base_of
from tasks.reporting.views.pairs import Geometry
from tasks.reporting.views.similarity import BIASED, POOLINGS, Similarity

MOST_LAYERS = 13
"""Columns of the table of layers; the frame beside the page has all."""

TITLE = "Similarity of hidden states (CKA)"

Names = tuple[str, str]


def cka_tables(tables: StudyTables, view: Geometry) -> tuple[Table, ...]:
    """What a reader needs of each run, and the layers one by one; one empty table where nothing was measured."""
    found = tables.similarity
    if found is None:
        return (Table("cka", TITLE, (), (), "No hidden states were compared in this study."),)
    return _summary(found, tables, view), _layers(cka_pairs(tables, view), found, view)


def cka_pairs(tables: StudyTables, view: Geometry) -> list[Names]:
    """Every run against the base, then every other run against the reference."""
    base, runs = base_of(tables).run, [info.run for info in view.runs]
    reference = view.reference.run if view.reference else None
    return [*((run, base) for run in runs), *((run, reference) for run in runs if reference and run != reference)]


def _summary(found: Similarity, tables: StudyTables, view: Geometry) -> Table:
    """One row a run: the lowest layer and the last, against the base and against the reference."""
    base, last = base_of(tables), found.layers[-1]
    others = [base.run, *([view.reference.run] if view.reference else [])]
    rows: list[tuple[Cell, ...]] = []
    marks = {0: "base"}
    for info in [base, *view.runs]:
        replicate = view.replicate_label(info.run, view.reference.run) if view.reference else ""
        if replicate:
            marks[len(rows)] = "floor"
        cells = [cell for other in others for cell in _pair_cells(info.run, other, last, found)]
        rows.append((Cell(info.run, said(replicate)), *cells))
    header = ["Run"]
    for other in others:
        header += [f"Lowest layer, against {other}", f"Last layer ({last}), against {other}", "Layers with a value"]
    return Table("cka", TITLE, tuple(header), tuple(rows), cka_note(found), marks=marks)


def _pair_cells(run: str, other: str, last: int, found: Similarity) -> tuple[Cell, Cell, Cell]:
    if run == other:
        return Cell("itself"), Cell("itself"), Cell("-")
    measured = Cell(f"{len(found.profile(run, other))} of {len(found.layers)}")
    place = found.lowest(run, other)
    if place is None:
        return Cell(_missing(run, other, last, found)), Cell(_missing(run, other, last, found)), measured
    beside = f"biased {CKA.text(found.value(run, other, place.layer, BIASED))}"
    lowest = Cell(CKA.text(place.value), (f"at layer {place.layer}", beside))
    value = found.value(run, other, last)
    if value is None:
        return lowest, Cell(_missing(run, other, last, found)), measured
    return lowest, Cell(CKA.text(value), (f"biased {CKA.text(found.value(run, other, last, BIASED))}",)), measured


def _layers(pairs: Sequence[Names], found: Similarity, view: Geometry) -> Table:
    step = -(-(len(found.layers) - 1) // (MOST_LAYERS - 1)) or 1
    layers = sorted({*found.layers[::step], found.layers[-1]})
    rows = [(*_ends(run, other, view), *(_cell(run, other, layer, found) for layer in layers)) for run, other in pairs]
    cut = "" if len(layers) == len(found.layers) else f"One layer in {step} and the last; cka.parquet has all. "
    header = ("Run", "against", *(f"Layer {layer}" for layer in layers))
    note = f"{cut}Debiased, the biased value beneath. {cka_note(found)}"
    return Table(
        "cka-layers", "CKA layer by layer", header, tuple(rows[:MOST_PAIRS]), note, words=2, marks=_marks(pairs, view)
    )


def cka_note(found: Similarity) -> str:
    """How it was computed, over what n, and why values are missing."""
    many = f"; {' and '.join(found.others)} in cka.parquet" if found.others else ""
    return (
        f"Linear CKA of the hidden states at {POOLINGS.get(found.pooling, found.pooling)}, {found.rows} rows{many}: 1 "
        "for states that are equal up to rotation and scale, about 0 for unrelated ones. Debiased: unbiased HSIC; the "
        "biased estimator comes out high where there are fewer rows than features. Layer 0 is the embedding's output."
        f"{''.join(_reasons(found))}"
    )


def _reasons(found: Similarity) -> Iterator[str]:
    for reason, layers in list(found.reasons().items())[:MOST_NAMED]:
        where = named([str(layer) for layer in layers], MOST_NAMED)
        yield f" No value at layer{'s' if len(layers) > 1 else ''} {where}: {reason}."


def _ends(run: str, other: str, view: Geometry) -> tuple[Cell, Cell]:
    return Cell(run, said(view.replicate_label(run, other))), Cell(other)


def _cell(run: str, other: str, layer: int, found: Similarity) -> Cell:
    value = found.value(run, other, layer)
    if value is None:
        return Cell(_missing(run, other, layer, found))
    return Cell(number(value, 3), (number(found.value(run, other, layer, BIASED), 3),))


def _missing(run: str, other: str, layer: int, found: Similarity) -> str:
    """A value that cannot be had is another thing than one that nobody measured; the note has the reason."""
    return "undefined" if found.reason(run, other, layer) else NOT_MEASURED


def _marks(pairs: Sequence[Names], view: Geometry) -> dict[int, str]:
    trained = {info.run for info in view.runs}
    marks = {i: "base" for i, (_, other) in enumerate(pairs) if other not in trained}
    return marks | {i: "floor" for i, pair in enumerate(pairs) if view.kind(*pair)}
