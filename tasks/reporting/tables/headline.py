"""The one table of a report's first screen: a line for each run, seven columns, every verdict a sign and a word."""

from __future__ import annotations

from dataclasses import replace

from tasks.core.results import RunInfo
from tasks.reporting.formats import (
    NOT_MEASURED,
    benchmark_name,
    learning_rate,
    number,
    percent,
    points,
    points_interval,
    significant,
    size,
)
from tasks.reporting.notes import interval, percentile
from tasks.reporting.tables.retention import retention_cells, retention_header
from tasks.reporting.tables.views import Cell, Cells, Table, detectable_points, mark_of, p_words, said, verdict_words
from tasks.reporting.views.accuracy import MARGIN, Score, Versus
from tasks.reporting.views.floors import ORDER
from tasks.reporting.views.pairs import (
    AT_FLOOR,
    AT_START,
    BELOW_FLOOR,
    BELOW_START,
    NO_FLOOR,
    ZERO,
    Geometry,
    across_note,
)
from tasks.reporting.views.same_method import SAME_METHOD, accuracy_apart, floor_words, unsigned_points
from tasks.reporting.views.study import REFERENCES, Row, Study

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


def headline_table(study: Study) -> Table:
    """Direction, accuracy and size of every run, every verdict a sign and a word; then what only its file has."""
    view, benchmark, second = study.geometry, study.primary, study.second
    reference = view.reference.run if view.reference else "sft"
    asked = sorted({row.first.n for row in study.rows if row.first})
    n = f" {benchmark_name(benchmark)}: n = {asked[0]:,}." if len(asked) == 1 else ""
    own = f" ({number(view.floor, 3)})" if view.floor is not None else ""
    header = (
        *("Run", f"Cosine to {reference}", f"Beside a repeat run{own}"),
        *(f"{benchmark_name(benchmark)} accuracy, %", "Against base, points", "Norm of update", "Note"),
        *(
            (f"{benchmark_name(second)} accuracy, %", f"{benchmark_name(second)} against base, points")
            if second
            else ()
        ),
        *("Answer loss, nats/token", "Effective rank", *retention_header(study)),
    )
    return Table(
        "headline",
        "Every run at a glance",
        header,
        [_row(row, study) for row in study.rows],
        "Beside a repeat run: the cosine across data orders against that of a method with itself. ▲ ▼: the exact test "
        f"shows a difference from the base; =: equal within {MARGIN}; ?: neither.{n} Hover for intervals and tests.",
        shown=7,
    )


def _row(row: Row, study: Study) -> Cells:
    view, info = study.geometry, row.info
    scores = [_accuracy_cells(info, study.primary, row.first, row.first_versus, study)]
    if study.second:
        scores.append(_accuracy_cells(info, study.second, row.second, row.second_versus, study))
    nothing = NONE if info.method in REFERENCES else NOT_MEASURED
    cosine = beside = norm = rank = Cell(nothing)
    if info in view.runs:
        undefined = row.effective_rank is None and info.run in view.zero
        cosine, beside = cosine_cell(info, row.cosine, view), standing_mark(info, view)
        norm, rank = Cell(size(row.norm, 3)), Cell(ZERO if undefined else number(row.effective_rank, 2))
    loss = number(row.first.answer_loss if row.first else None, 3)
    first, *others = scores
    about = f"lr {learning_rate(info.lr)} seed {info.seed}" if info in view.runs else ""
    name = Cell(info.run, (*said(about), *said(f"data order {info.data_seed}" if info.data_seed != info.seed else "")))
    second, note = [cell for two in others for cell in two], _note(info, view)
    own = retention_cells(study, info)
    return Cells(name, cosine, beside, *first, norm, note, *second, loss, rank, *own, mark=mark_of(info, view))


def _accuracy_cells(
    info: RunInfo, benchmark: str, score: Score | None, found: Versus | None, study: Study
) -> tuple[Cell, Cell]:
    """Accuracy with its interval, and the difference from the base with all that qualifies it."""
    accuracy = Cell(NOT_MEASURED)
    if score is not None:
        interval = f"95 % interval {percent(score.low)} to {percent(score.high)}"
        accuracy = Cell(percent(score.accuracy), (f"{score.correct} of {score.n}", interval))
    if info.method == "base" or found is None:
        return accuracy, Cell(NONE) if info.method == "base" else Cell(NOT_MEASURED)
    interval, again = points_interval(found.low, found.high), points_interval(found.method_low, found.method_high)
    repeated = said(f"repeated {again}" if found.repeatable is not None else "")
    floor = same_method_words(study, benchmark)
    subs = (interval, p_words(found), found.verdict, f"detectable {detectable_points(found)}", *repeated, floor)
    return accuracy, replace(versus_mark(found), subs=subs)


def cosine_cell(info: RunInfo, cosine: float | None, view: Geometry) -> Cell:
    """The cosine to the reference with its interval, where it stands in the null, and how it stands to the floor."""
    if cosine is None and info.run in view.zero:
        return Cell(ZERO)
    if info == view.reference and cosine is not None:
        return Cell(NONE, ("itself",))
    if view.reference is None or cosine is None:
        return Cell(number(cosine, 3))
    found = view.estimate(info.run, view.reference.run, "cosine")
    rank = percentile(found)
    null = f"null {number(found.null, 3)}, percentile {rank}" if rank and found.null is not None else ""
    noise = (*said(across_note(view, info, view.reference)), *said(view.standing(info, view.reference)))
    return Cell(number(cosine, 3), (*said(interval(found, 3)), *said(null), *noise))


def same_method_words(study: Study, benchmark: str) -> str:
    """How far accuracies of one method are apart, for under a difference."""
    largest, _ = floor_words(accuracy_apart(study, benchmark), unsigned_points)
    return largest if largest == NO_FLOOR else f"{SAME_METHOD.lower()} {largest}"


def versus_mark(found: Versus) -> Cell:
    """A difference in points with its verdict as a sign, a word and a colour."""
    words, tone = verdict_words(found.difference, found.verdict)
    return Cell(points(found.difference), tone=tone, mark=words)


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
            subs=(view.standing(info, reference),),
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
        return Cell(f"≈ as near{aside}", subs=said(tip), tone="same")
    if standing not in (BELOW_FLOOR, BELOW_START):
        return Cell(f"? {ZERO}" if info.run in view.zero else "? no repeat run", subs=said(standing), tone="open")
    return Cell(f"{far_words(judged)}{aside}", subs=said(tip), tone="far")


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
