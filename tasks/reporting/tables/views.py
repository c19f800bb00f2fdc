"""Views as rows of strings: one source for the HTML page, its Markdown form and the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from tasks.core.results import DIFFERS, EFFECT, NO_POWER, RunInfo, differs_little, equal_within
from tasks.reporting.formats import NOT_MEASURED, number, p_value, percent
from tasks.reporting.notes import count
from tasks.reporting.views.accuracy import BASE_FAMILY, MARGIN, Score, Versus
from tasks.reporting.views.pairs import Geometry
from tasks.reporting.views.study import REFERENCES, Study

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
    what is said on hover, which stands in another table as well; ``tone``: one of `TONES`, where the text is a verdict
    or ``mark``, a sign and a word after a number, is one.
    """

    text: str
    subs: tuple[str, ...] = ()
    href: str = ""
    tip: str = ""
    tone: str = ""
    mark: str = ""

    @property
    def marked(self) -> str:
        """The text with its mark."""
        return f"{self.text} {self.mark}".rstrip()

    @property
    def plain(self) -> str:
        return f"{self.marked} ({', '.join(self.subs)})" if self.subs else self.marked


def said(text: str) -> tuple[str, ...]:
    """``text`` as the lines under a cell: none where it is empty."""
    return (text,) if text else ()


class Cells(tuple[Cell, ...]):
    """A row of a table, a cell for each part; a word or a number is a cell that says no more than that.

    ``mark``: "base" (also other references), "floor", or nothing.
    """

    mark: str

    def __new__(cls, *parts: Cell | str | int, mark: str = "") -> Self:
        made = super().__new__(cls, (part if isinstance(part, Cell) else Cell(str(part)) for part in parts))
        made.mark = mark
        return made

    def with_cells(self, cells: Iterable[Cell]) -> Cells:
        """The same row with other cells."""
        return Cells(*cells, mark=self.mark)


@dataclass(frozen=True)
class Table:
    """A table for a reader. ``words``: leading columns of words; the rest are numbers. ``note``: how and over what n.

    ``shown``: of a table that a reader skims, the columns that a page has, with what qualifies their cells on hover;
    its file has everything.
    """

    key: str
    title: str
    header: Sequence[str]
    rows: Sequence[Cells]
    note: str
    words: int = 1
    shown: int | None = None


def score_cell(found: Score | None) -> Cell:
    """Accuracy in percent with its interval."""
    if found is None:
        return Cell(NOT_MEASURED)
    return Cell(percent(found.accuracy), (f"{percent(found.low)} to {percent(found.high)}",))


def verdict_words(difference: float, verdict: str, effect: float = EFFECT) -> tuple[str, str]:
    """A verdict on a difference, by the margin ``effect`` (a share), as a sign with a word, and its tone."""
    side, tone = ("▲ higher", "good") if difference > 0 else ("▼ lower", "bad")
    return {
        DIFFERS: (side, tone),
        differs_little(effect): (f"{side}, slightly", tone),
        equal_within(effect): ("= equal", "same"),
        NO_POWER: ("? undecided", "open"),
    }.get(verdict, (verdict, "open"))


def p_words(found: Versus) -> str:
    """``'p 0.029'``, the adjusted one; that of a pair in no family says that it is not."""
    return f"p {p_value(found.p)}{'' if found.family else ' (unadjusted)'}"


def family_words(study: Study, family: str, benchmark: str) -> str:
    """``'Holm-adjusted over the 6 pairs of main runs and the base'``: over what p is adjusted, said once a table."""
    pairs = count(study.mcnemar.filter(family=family, benchmark=benchmark).height, "pair")
    who = "a main run and the base" if family == BASE_FAMILY else "two main runs"
    return f"Holm-adjusted over the {pairs} of {who}"


def detectable_points(found: Versus) -> str:
    """The smallest difference that the test would have found, in points without a sign."""
    return "none" if found.detectable is None else number(100 * found.detectable, 1)


def mark_of(info: RunInfo, view: Geometry) -> str:
    """The mark of a run's row: a reference's, or that of a noise floor of the reference."""
    if view.reference and view.replicate(info, view.reference):
        return "floor"
    return "base" if info.method in REFERENCES and info not in view.runs else ""
