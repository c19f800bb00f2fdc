"""What the models compute as rows of strings: hidden states, logit-lens depth, divergences of their outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import polars as pl

from tasks.core.results import RunInfo
from tasks.reporting.estimates import Estimate, Spread
from tasks.reporting.formats import NOT_MEASURED, significant
from tasks.reporting.metrics import CKA, DEPTH
from tasks.reporting.notes import MOST_NAMED, named
from tasks.reporting.tables.views import Cell, Cells, Table, mark_of, said
from tasks.reporting.views.pairs import NO_FLOOR, Geometry
from tasks.reporting.views.same_method import FLOOR_NOTE, SAME_METHOD, apart, difference_of, floor_words
from tasks.reporting.views.similarity import BIASED, POOLINGS, Similarity
from tasks.reporting.views.study import Study

MOST_RUNS = 12
"""Rows and columns of the matrix of divergences; the frame beside the page has all."""


def divergences(frame: pl.DataFrame) -> dict[tuple[str, str], Estimate]:
    """(run_a, run_b) -> KL(p_a || p_b), nats a token, its interval over problems, from DIVERGENCE; it has a direction.
    All have a value."""
    rows = frame.filter(pl.col("value").is_finite()).select("run_a", "run_b", "value", "low", "high").iter_rows()
    return {(a, b): Estimate(*rest) for a, b, *rest in rows}


def depths(lens: pl.DataFrame) -> dict[str, float]:
    """Run -> logit-lens depth in layers, from LENS."""
    rows = lens.filter(metric="depth").filter(pl.col("layer").is_null(), pl.col("value").is_finite())
    return dict(rows.select("run", "value").iter_rows())


def depths_apart(study: Study) -> dict[str, Spread]:
    """How far the logit-lens depths of runs of one method are apart, layers."""
    return apart(study.geometry, difference_of(depths(study.lens).get))


def functions_table(study: Study) -> Table:
    """One row a run: depth, divergence from and to the base, and from and to the reference."""
    view = study.geometry
    title = "Outputs: logit-lens depth and divergence"
    found, deep = divergences(study.divergence), depths(study.lens)
    if not found and not deep:
        return Table("functions", title, (), (), "Neither the logit lens nor a divergence was measured in this study.")
    base, reference = study.base, view.reference
    others = [base, *([reference] if reference else [])]
    layers = max(study.lens["layer"].drop_nulls(), default=None)
    against = reference or base
    largest, _ = floor_words(depths_apart(study), DEPTH.text)
    rows = []
    for info in [base, *view.runs]:
        cells = [Cell(DEPTH.text(deep.get(info.run))), _deeper(deep, info.run, against.run, largest)]
        for other in others:
            cells += [_cell(found, *pair) for pair in ((other.run, info.run), (info.run, other.run))]
        rows.append(Cells(Cell(info.run, said(_replicate(info, reference, view))), *cells, mark=mark_of(info, view)))
    header = ["Run", f"Logit-lens depth, of {layers} layers" if layers is not None else "Logit-lens depth, layers"]
    header += [f"Deeper than {against.run}, layers"]
    for other in others:
        header += [f"KL({other.run} || run), nats/token", f"KL(run || {other.run}), nats/token"]
    return Table("functions", title, header, rows, f"{_note(study)} {FLOOR_NOTE}")


def _deeper(deep: Mapping[str, float], run: str, other: str, floor: str) -> Cell:
    """The difference of two depths, with that of runs of one method beneath it."""
    if run == other or run not in deep or other not in deep:
        return Cell("-", ("itself",)) if run == other else Cell(NOT_MEASURED)
    sign = "+" if round(deep[run] - deep[other], 2) > 0 else ""
    beneath = floor if floor == NO_FLOOR else f"{SAME_METHOD.lower()} {floor}"
    return Cell(f"{sign}{DEPTH.text(deep[run] - deep[other])}", (beneath,))


def divergence_matrix(study: Study) -> Table | None:
    """KL(row || column) of the base and every run; None where nothing was measured."""
    view = study.geometry
    found = divergences(study.divergence)
    if not found:
        return None
    every = [study.base, *view.runs]
    shown = _kept(every, view)
    rows = [
        Cells(a.run, *(_cell(found, a.run, b.run, _replicate(a, b, view)) for b in shown), mark="" if place else "base")
        for place, a in enumerate(shown)
    ]
    cut = "" if len(shown) == len(every) else f"{len(shown)} of {len(every)} models; divergence.parquet has all pairs. "
    note = f"{cut}Row a, column b: KL(p_a || p_b), nats a token. {_note(study)}"
    header = ("KL(row || column)", *(info.run for info in shown))
    return Table("divergences", "Divergence of every pair", header, rows, note)


def _kept(every: Sequence[RunInfo], view: Geometry) -> list[RunInfo]:
    """Of many the base, the reference and its noise floors, and the first others."""
    first = [
        info
        for info in every
        if info.method == "base" or info == view.reference or _replicate(info, view.reference, view)
    ]
    kept = [*first, *(info for info in every if info not in first)][:MOST_RUNS]
    return [info for info in every if info in kept]


def _note(study: Study) -> str:
    frame = study.divergence if study.divergence.height else study.lens
    tokens, problems = (
        max(frame["tokens"]),
        f" of {max(study.divergence['n'])} problems" if frame is not study.lens else "",
    )
    return (
        f"Over the {tokens} tokens of the reference solutions{problems}. Depth: mean over tokens of the first layer "
        "from which on the most likely token is the last layer's. KL: of the whole next-token distribution at each "
        "token; [low, high]: 95 % bootstrap over problems. KL(base || run) is the forward divergence to the base. "
        "Shaded as a noise floor: another run of the reference's method, whose row is what noise alone does."
    )


def _replicate(a: RunInfo, b: RunInfo | None, view: Geometry) -> str:
    return view.replicate_label(a.run, b.run) if b is not None else ""


def _cell(found: Mapping[tuple[str, str], Estimate], a: str, b: str, standing: str = "") -> Cell:
    if a == b:
        return Cell("0", ("itself",))
    if (a, b) not in found:
        return Cell(NOT_MEASURED)
    one = found[a, b]
    return Cell(significant(one.value), (*said(one.interval(significant)), *said(standing)))


TITLE = "Similarity of hidden states (CKA)"

Names = tuple[str, str]


def cka_table(study: Study) -> Table:
    """What a reader needs of each run: the lowest layer and the last, against the base and against the reference. The
    figure has the layers one by one."""
    view, found, base = study.geometry, study.similarity, study.base
    if found is None:
        return Table("cka", TITLE, (), (), "No hidden states were compared in this study.")
    last = found.layers[-1]
    others = [base.run, *([view.reference.run] if view.reference else [])]
    rows = []
    for info in [base, *view.runs]:
        cells = [cell for other in others for cell in _pair_cells(info.run, other, last, found)]
        name = Cell(info.run, said(_replicate(info, view.reference, view)))
        rows.append(Cells(name, *cells, mark=mark_of(info, view)))
    header = ["Run"]
    for other in others:
        header += [f"Lowest layer, against {other}", f"Last layer ({last}), against {other}", "Layers with a value"]
    return Table("cka", TITLE, header, rows, cka_note(found))


def _pair_cells(run: str, other: str, last: int, found: Similarity) -> Cells:
    if run == other:
        return Cells("itself", "itself", "-")
    measured = Cell(f"{len(found.profile(run, other))} of {len(found.layers)}")
    place = found.lowest(run, other)
    if place is None:
        return Cells(*[_missing(run, other, last, found)] * 2, measured)
    beside = f"biased {CKA.text(found.value(run, other, place.layer, BIASED))}"
    lowest = Cell(CKA.text(place.value), (f"at layer {place.layer}", beside))
    value = found.value(run, other, last)
    if value is None:
        return Cells(lowest, _missing(run, other, last, found), measured)
    biased = f"biased {CKA.text(found.value(run, other, last, BIASED))}"
    return Cells(lowest, Cell(CKA.text(value), (biased,)), measured)


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


def _missing(run: str, other: str, layer: int, found: Similarity) -> str:
    """A value that cannot be had is another thing than one that nobody measured; the note has the reason."""
    return "undefined" if found.reason(run, other, layer) else NOT_MEASURED
