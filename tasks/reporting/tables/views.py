"""Views as rows of strings: one source for the HTML page, its Markdown form and the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tasks.core.results import RunInfo
from tasks.reporting.formats import (
    NOT_MEASURED,
    benchmark_name,
    in_sentence,
    learning_rate,
    number,
    p_value,
    percent,
    points,
    points_interval,
    size,
    span,
)
from tasks.reporting.notes import count, floor_note, interval, interval_note, percentile
from tasks.reporting.views.join import (
    BASE_FAMILY,
    MARGIN,
    REFERENCES,
    HeadlineRow,
    Score,
    StudyTables,
    Versus,
    primary_benchmark,
    second_benchmark,
)
from tasks.reporting.views.pairs import NO_FLOOR, ZERO, Geometry, across_note, headline_rows
from tasks.reporting.views.same_method import SAME_METHOD, accuracy_apart, floor_words, unsigned_points

NO_UPDATE = "no update"
"""What the row of the base, or of another model that no method trained, says where a weight update would stand."""

VERDICT_NOTE = (
    f"differs: p at most 0.05; equal within {MARGIN}: all of the interval is, and a pair can be both; no power: neither"
)
"""What the verdicts on a pair's accuracies mean."""


TONES = ("good", "bad", "same", "far", "open")
"""Colours of a verdict, whose text says the same in a sign and a word: higher or holding, lower or failing, as near as
a repeat run, farther than one, undecided."""


@dataclass(frozen=True)
class Cell:
    """What a cell says, and in smaller type, a line each, what qualifies it. ``href``: where the text leads; ``tip``:
    what is said on hover, which stands in another table as well; ``tone``: one of `TONES`, where the text is a verdict.
    """

    text: str
    subs: tuple[str, ...] = ()
    href: str = ""
    tip: str = ""
    tone: str = ""

    @property
    def plain(self) -> str:
        return f"{self.text} ({', '.join(self.subs)})" if self.subs else self.text


def said(text: str) -> tuple[str, ...]:
    """``text`` as the lines under a cell: none where it is empty."""
    return (text,) if text else ()


@dataclass(frozen=True)
class Table:
    """A table for a reader. ``words``: leading columns of words; the rest are numbers. ``note``: how and over what n.

    ``marks``: row index -> "base" (also other references) or "floor".
    """

    key: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str
    words: int = 1
    marks: dict[int, str] = field(default_factory=dict)


def headline_table(tables: StudyTables, view: Geometry) -> Table:
    """One row a run: accuracy, against the base, answer loss, and the update's direction and size."""
    rows = headline_rows(tables, view)
    name, other = benchmark_name(primary_benchmark(tables)), second_benchmark(tables)
    reference = view.reference.run if view.reference else "sft"
    floors = [same_method_words(tables, view, one) for one in (primary_benchmark(tables), other) if one is not None]
    header = ["Run", f"{name} accuracy, %", "Against base, points"]
    if other is not None:
        header += [f"{benchmark_name(other)} accuracy, %", f"{benchmark_name(other)} against base, points"]
    header += ["Answer loss, nats/token", f"Cosine to {reference}", "Norm of update", "Effective rank"]
    note = (
        f"{name}: {_answers(rows)}, below it the 95 % interval. Against base: paired difference and its 95 % interval; "
        f"p exact two-sided McNemar, {family_words(tables, BASE_FAMILY, primary_benchmark(tables))}, of other runs "
        f"unadjusted; {VERDICT_NOTE}; detectable: the smallest true difference, in points, that the test would have "
        "found (power 80 %); repeated: the interval with the spread of repeated trainings; same method: the largest "
        "difference of two runs of one method, which differ in the order of their data or in their LoRA initialisation "
        f"too. Answer loss: the reference solutions of the {in_sentence(primary_benchmark(tables))} problems, mean "
        "over tokens. Effective rank: exp of the entropy of the singular values, "
        f"mean over {view.modules} modules. Cosine: {interval_note(view)} {floor_note(view)}"
    )
    return Table(
        "headline",
        "Every run in full: intervals, tests, detectable differences, floors and nulls",
        tuple(header),
        tuple(_headline_row(row, view, floors, other is not None) for row in rows),
        note,
        marks=reference_marks([row.info for row in rows], view),
    )


def _headline_row(row: HeadlineRow, view: Geometry, floors: Sequence[str], with_second: bool) -> tuple[Cell, ...]:
    info, trained = row.info, row.info in view.runs
    cells = [run_cell(info), score_cell(row.first), versus_cell(info, row.first_versus, floors[0])]
    if with_second:
        cells += [score_cell(row.second), versus_cell(info, row.second_versus, floors[1])]
    geometry = [cosine_cell(info, row.cosine, view), Cell(size(row.norm, 3)), _rank_cell(row, view)]
    loss = Cell(number(row.first.answer_loss if row.first else None, 3))
    return (*cells, loss, *(geometry if trained else [_absent_update(info)] * 3))


def cosine_cell(info: RunInfo, cosine: float | None, view: Geometry) -> Cell:
    """The cosine to the reference with its interval, where it stands in the null, and how it stands to the floor."""
    if cosine is None and info.run in view.zero:
        return Cell(ZERO)
    if view.reference is None or info == view.reference or cosine is None:
        return Cell(number(cosine, 3), said("itself" if info == view.reference else ""))
    found = view.estimate(info.run, view.reference.run, "cosine")
    rank = percentile(found)
    null = f"null {number(found.null, 3)}, percentile {rank}" if rank and found.null is not None else ""
    noise = (*said(across_note(view, info, view.reference)), *said(view.standing(info, view.reference)))
    return Cell(number(cosine, 3), (*said(interval(found, 3)), *said(null), *noise))


def _rank_cell(row: HeadlineRow, view: Geometry) -> Cell:
    undefined = row.effective_rank is None and row.info.run in view.zero
    return Cell(ZERO if undefined else number(row.effective_rank, 2))


def _absent_update(info: RunInfo) -> Cell:
    return Cell(NO_UPDATE if info.method in REFERENCES else NOT_MEASURED)


def run_cell(info: RunInfo) -> Cell:
    if info.method in REFERENCES:
        return Cell(info.run, ("untrained" if info.method == "base" else "reference",))
    order = said(f"data order {info.data_seed}" if info.data_seed != info.seed else "")
    return Cell(info.run, (f"lr {learning_rate(info.lr)} seed {info.seed}", *order))


def score_cell(found: Score | None) -> Cell:
    """Accuracy in percent with its interval."""
    if found is None:
        return Cell(NOT_MEASURED)
    return Cell(percent(found.accuracy), (f"{percent(found.low)} to {percent(found.high)}",))


def _answers(rows: list[HeadlineRow]) -> str:
    """How many answers an accuracy is over."""
    return f"one greedy answer a problem, n = {span([row.first.n for row in rows if row.first] or [0], 0)}"


def same_method_words(tables: StudyTables, view: Geometry, benchmark: str) -> str:
    """How far accuracies of one method are apart, for under a difference."""
    largest, _ = floor_words(accuracy_apart(tables, view, benchmark), unsigned_points)
    return largest if largest == NO_FLOOR else f"{SAME_METHOD.lower()} {largest}"


def versus_cell(info: RunInfo, found: Versus | None, floor: str) -> Cell:
    if info.method == "base":
        return Cell("-", ("the base",))
    if found is None:
        return Cell(NOT_MEASURED)
    interval, again = points_interval(found.low, found.high), points_interval(found.method_low, found.method_high)
    repeated = said(f"repeated {again}" if found.repeatable is not None else "")
    subs = (p_words(found), found.verdict, f"detectable {detectable_points(found)}", *repeated, floor)
    return Cell(points(found.difference), (interval, *subs))


def p_words(found: Versus) -> str:
    """``'p 0.029'``, the adjusted one; that of a pair in no family says that it is not."""
    return f"p {p_value(found.p)}{'' if found.family else ' (unadjusted)'}"


def family_words(tables: StudyTables, family: str, benchmark: str) -> str:
    """``'Holm-adjusted over the 6 pairs of main runs and the base'``: over what p is adjusted, said once a table."""
    pairs = count(tables.mcnemar.filter(family=family, benchmark=benchmark).height, "pair")
    who = "a main run and the base" if family == BASE_FAMILY else "two main runs"
    return f"Holm-adjusted over the {pairs} of {who}"


def detectable_points(found: Versus) -> str:
    """The smallest difference that the test would have found, in points without a sign."""
    return "none" if found.detectable is None else number(100 * found.detectable, 1)


def reference_marks(infos: list[RunInfo], view: Geometry) -> dict[int, str]:
    """Rows of references and of the reference's noise floors, for `Table.marks`."""
    marks = {i: "base" for i, info in enumerate(infos) if info.method in REFERENCES}
    floors = {i: "floor" for i, info in enumerate(infos) if view.reference and view.replicate(info, view.reference)}
    return marks | floors
