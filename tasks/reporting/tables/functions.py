"""What the models compute, as rows of strings: logit-lens depth, and divergences of their output distributions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from tasks.core.results import RunInfo
from tasks.reporting.estimates import Estimate, Spread
from tasks.reporting.formats import NOT_MEASURED, significant
from tasks.reporting.metrics import DEPTH
from tasks.reporting.tables.views import Cell, Table, said
from tasks.reporting.views.join import StudyTables, base_of
from tasks.reporting.views.pairs import NO_FLOOR, Geometry
from tasks.reporting.views.same_method import FLOOR_NOTE, SAME_METHOD, apart, difference_of, floor_words

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


def depths_apart(tables: StudyTables, view: Geometry) -> dict[str, Spread]:
    """How far the logit-lens depths of runs of one method are apart, layers."""
    return apart(view, difference_of(depths(tables.lens).get))


def functions_table(tables: StudyTables, view: Geometry) -> Table:
    """One row a run: depth, divergence from and to the base, and from and to the reference."""
    title = "Outputs: logit-lens depth and divergence"
    found, deep = divergences(tables.divergence), depths(tables.lens)
    if not found and not deep:
        return Table("functions", title, (), (), "Neither the logit lens nor a divergence was measured in this study.")
    base, reference = base_of(tables), view.reference
    others = [base, *([reference] if reference else [])]
    layers = max(tables.lens["layer"].drop_nulls(), default=None)
    against = reference or base
    largest, _ = floor_words(depths_apart(tables, view), DEPTH.text)
    rows = []
    for info in [base, *view.runs]:
        cells = [Cell(DEPTH.text(deep.get(info.run))), _deeper(deep, info.run, against.run, largest)]
        for other in others:
            cells += [_cell(found, *pair) for pair in ((other.run, info.run), (info.run, other.run))]
        rows.append((Cell(info.run, said(_twin(info, reference, view))), *cells))
    header = ["Run", f"Logit-lens depth, of {layers} layers" if layers is not None else "Logit-lens depth, layers"]
    header += [f"Deeper than {against.run}, layers"]
    for other in others:
        header += [f"KL({other.run} || run), nats/token", f"KL(run || {other.run}), nats/token"]
    marks = {0: "base", **{i: "floor" for i, info in enumerate(view.runs, 1) if _twin(info, reference, view)}}
    return Table("functions", title, tuple(header), tuple(rows), f"{_note(tables)} {FLOOR_NOTE}", marks=marks)


def _deeper(deep: Mapping[str, float], run: str, other: str, floor: str) -> Cell:
    """The difference of two depths, with that of runs of one method beneath it."""
    if run == other or run not in deep or other not in deep:
        return Cell("-", ("itself",)) if run == other else Cell(NOT_MEASURED)
    sign = "+" if round(deep[run] - deep[other], 2) > 0 else ""
    beneath = floor if floor == NO_FLOOR else f"{SAME_METHOD.lower()} {floor}"
    return Cell(f"{sign}{DEPTH.text(deep[run] - deep[other])}", (beneath,))


def divergence_matrix(tables: StudyTables, view: Geometry) -> Table | None:
    """KL(row || column) of the base and every run; None where nothing was measured."""
    found = divergences(tables.divergence)
    if not found:
        return None
    every = [base_of(tables), *view.runs]
    shown = _kept(every, view)
    rows = [(Cell(a.run), *(_cell(found, a.run, b.run, _twin(a, b, view)) for b in shown)) for a in shown]
    cut = "" if len(shown) == len(every) else f"{len(shown)} of {len(every)} models; divergence.parquet has all pairs. "
    note = f"{cut}Row a, column b: KL(p_a || p_b), nats a token. {_note(tables)}"
    header = ("KL(row || column)", *(info.run for info in shown))
    return Table("divergences", "Divergence of every pair", header, tuple(rows), note, marks={0: "base"})


def _kept(every: Sequence[RunInfo], view: Geometry) -> list[RunInfo]:
    """Of many the base, the reference and its noise floors, and the first others."""
    first = [
        info for info in every if info.method == "base" or info == view.reference or _twin(info, view.reference, view)
    ]
    kept = [*first, *(info for info in every if info not in first)][:MOST_RUNS]
    return [info for info in every if info in kept]


def _note(tables: StudyTables) -> str:
    frame = tables.divergence if tables.divergence.height else tables.lens
    tokens, problems = (
        max(frame["tokens"]),
        f" of {max(tables.divergence['n'])} problems" if frame is not tables.lens else "",
    )
    return (
        f"Over the {tokens} tokens of the reference solutions{problems}. Depth: mean over tokens of the first layer "
        "from which on the most likely token is the last layer's. KL: of the whole next-token distribution at each "
        "token; [low, high]: 95 % bootstrap over problems. KL(base || run) is the forward divergence to the base. "
        "Shaded as a noise floor: another run of the reference's method, whose row is what noise alone does."
    )


def _twin(a: RunInfo, b: RunInfo | None, view: Geometry) -> str:
    return view.replicate_label(a.run, b.run) if b is not None else ""


def _cell(found: Mapping[tuple[str, str], Estimate], a: str, b: str, standing: str = "") -> Cell:
    if a == b:
        return Cell("0", ("itself",))
    if (a, b) not in found:
        return Cell(NOT_MEASURED)
    one = found[a, b]
    return Cell(significant(one.value), (*said(one.interval(significant)), *said(standing)))
