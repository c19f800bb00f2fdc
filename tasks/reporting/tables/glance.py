"""The one table of a report's first screen: a line for each run, seven columns, every verdict a sign and a word."""

from __future__ import annotations

from tasks.core.results import DIFFERS, DIFFERS_LITTLE, EQUAL, NO_POWER, RunInfo
from tasks.reporting.formats import NOT_MEASURED, benchmark_name, number, percent, points, significant, size
from tasks.reporting.tables.views import Cell, Table, cosine_cell, reference_marks, same_method_words, versus_cell
from tasks.reporting.views.floors import ORDER
from tasks.reporting.views.join import MARGIN, REFERENCES, HeadlineRow, StudyTables, Versus, primary_benchmark
from tasks.reporting.views.pairs import AT_FLOOR, AT_START, BELOW_FLOOR, BELOW_START, ZERO, Geometry, headline_rows

NONE = "–"
"""A cell of a row to which its column does not apply."""

NEAR_ORTHOGONAL = 0.2
"""Cosines nearer to 0 than this, angles beyond 78 degrees, are called nearly orthogonal, those below its negative
opposite. A word for a reader; no verdict hangs on it."""

_NOTES = {
    "base": "before training",
    "base-instructed": "base with the teacher's prompt",
    "teacher": "wrote the rollouts",
}


def glance_table(tables: StudyTables, view: Geometry) -> Table:
    """Direction, accuracy and size of every run; what qualifies a number is on hover and in the full table."""
    benchmark, rows = primary_benchmark(tables), headline_rows(tables, view)
    reference = view.reference.run if view.reference else "sft"
    asked = sorted({row.first.n for row in rows if row.first})
    n = f" {benchmark_name(benchmark)}: n = {asked[0]:,}." if len(asked) == 1 else ""
    own = f" ({number(view.floor, 3)})" if view.floor is not None else ""
    header = (
        *("Run", f"Cosine to {reference}", f"Beside a repeat run{own}"),
        *(f"{benchmark_name(benchmark)} accuracy, %", "Against base, points", "Norm of update", "Note"),
    )
    floor = same_method_words(tables, view, benchmark)
    return Table(
        "glance",
        "Every run at a glance",
        header,
        tuple(_row(row, view, floor) for row in rows),
        "Beside a repeat run: the cosine across data orders against that of a method with itself. ▲ ▼: the exact test "
        f"shows a difference from the base; =: equal within {MARGIN}; ?: neither.{n} Hover for intervals and tests.",
        words=1,
        marks=reference_marks([row.info for row in rows], view),
    )


def _row(row: HeadlineRow, view: Geometry, floor: str) -> tuple[Cell, ...]:
    info, trained = row.info, row.info in view.runs
    full = versus_cell(info, row.first_versus, floor)
    score = row.first
    accuracy = Cell(NOT_MEASURED)
    if score is not None:
        interval = f"95 % interval {percent(score.low)} to {percent(score.high)}"
        accuracy = Cell(percent(score.accuracy), tip=f"{score.correct} of {score.n}; {interval}")
    against = Cell(NONE) if info.method == "base" else versus_mark(row.first_versus, "; ".join(full.subs))
    if not trained:
        update = Cell(NONE if info.method in REFERENCES else NOT_MEASURED)
        return (Cell(info.run), update, update, accuracy, against, update, Cell(_note(info, view)))
    cosine = cosine_cell(info, row.cosine, view)
    shown = Cell(NONE if info == view.reference and row.cosine is not None else cosine.text, tip="; ".join(cosine.subs))
    return (
        *(Cell(info.run), shown, standing_mark(info, view), accuracy, against),
        *(Cell(size(row.norm, 3)), Cell(_note(info, view))),
    )


def versus_mark(found: Versus | None, tip: str = "") -> Cell:
    """A difference in points with its verdict as a sign, a word and a colour."""
    if found is None:
        return Cell(NOT_MEASURED)
    up = found.difference > 0
    side = ("▲ higher" if up else "▼ lower", "good" if up else "bad")
    words, tone = {
        DIFFERS: side,
        DIFFERS_LITTLE: (f"{side[0]}, slightly", side[1]),
        EQUAL: ("= equal", "same"),
        NO_POWER: ("? undecided", "open"),
    }.get(found.verdict, (found.verdict, "open"))
    return Cell(f"{points(found.difference)} {words}", tip=tip, tone=tone)


def standing_mark(info: RunInfo, view: Geometry) -> Cell:
    """How the direction stands to the reference's, against what a repeat run gives."""
    reference = view.reference
    if reference is None:
        return Cell(NOT_MEASURED)
    if info == reference:
        return Cell("the reference")
    if (kind := view.replicate(info, reference)) is not None:
        return Cell(
            "≈ repeat run" if kind == ORDER else "repeat run, other start",
            tone="same",
            tip=view.standing(info, reference),
        )
    standing, found = view.standing(info, reference), view.likeness(info, reference, "cosine")
    start = view.start_floor(info, reference, "cosine")
    if standing in (AT_FLOOR, BELOW_FLOOR):
        judged, low = found.mean, min(found.floor)
        tip = f"across data orders {number(judged, 3)}, which the noise floor {number(low, 3)} judges: {standing}"
        aside = f" ({number(judged, 3)})"
    else:
        judged, tip, aside = view.cosine(info.run, reference.run), standing, ""
        if start is not None:
            tip += f": the same method from another initialisation has {number(start.lowest, 3)}"
    if standing in (AT_FLOOR, AT_START):
        return Cell(f"≈ as near{aside}", tip=tip, tone="same")
    if standing not in (BELOW_FLOOR, BELOW_START):
        return Cell(f"? {ZERO}" if info.run in view.zero else "? no repeat run", tip=standing, tone="open")
    return Cell(f"{far_words(judged)}{aside}", tip=tip, tone="far")


def far_words(cosine: float | None) -> str:
    """What a cosine below the noise floor is called: a sign and a word."""
    if cosine is None or cosine >= NEAR_ORTHOGONAL:
        return "≠ farther"
    return "⟂ nearly orthogonal" if cosine > -NEAR_ORTHOGONAL else "⇄ opposite"


def rate_words(info: RunInfo, reference: RunInfo | None) -> str:
    """``'1/10 of the rate'`` of a run that was trained at another learning rate than the reference; else empty."""
    if reference is None or not info.lr or not reference.lr or info.lr == reference.lr:
        return ""
    times = info.lr / reference.lr
    whole = round(1 / times)
    if times < 1 and abs(1 / times - whole) < 1e-6:
        return f"1/{whole} of the rate"
    return f"{significant(times, 2)} times the rate"


def _note(info: RunInfo, view: Geometry) -> str:
    if info.method in REFERENCES:
        return _NOTES.get(info.method, "reference")
    first = next((one for one in view.runs if (one.method, one.lr) == (info.method, info.lr)), info)
    parts = [rate_words(info, view.reference)]
    if info != first:
        parts.append("other initialisation" if info.seed != first.seed else "other data order")
    if info.run in view.zero:
        parts.append("zero update")
    return ", ".join(part for part in parts if part)
