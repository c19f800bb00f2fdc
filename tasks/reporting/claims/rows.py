"""Claims as a reader skims them: a line each with its coloured verdict, its number and interval, and why not."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.reporting.claims.claim import ClaimResult
from tasks.reporting.claims.measured import NOT_MEASURED
from tasks.reporting.claims.output import paper_text
from tasks.reporting.claims.rules import FAILS, HOLDS, NO_POWER
from tasks.reporting.formats import number
from tasks.reporting.tables.views import Cell, Table

MARKS = {HOLDS: ("✓", "good"), FAILS: ("✗", "bad"), NO_POWER: ("?", "open"), NOT_MEASURED: ("–", "open")}
"""Verdict -> its sign and its tone, in the order in which verdicts are read."""

_NOTE = (
    "A claim holds where all of the 95 % interval is in its range, does not where none of it is; the tables below have "
    "every row with its rule, noise floor and n."
)


def verdict_tables(results: Sequence[ClaimResult]) -> tuple[list[Table], list[Table]]:
    """To show: the claims and the open questions that were decided. Behind a fold: those without power to tell."""
    claims = [one for one in results if not one.claim.open]
    asked = [one for one in results if one.claim.open and one.verdict != NOT_MEASURED]
    decided = [one for verdict in (HOLDS, FAILS) for one in claims if one.verdict == verdict]
    undecided = [one for one in claims if one.verdict == NO_POWER]
    shown = [
        _table("claims-decided", "Claims of the paper that hold here, then those that do not", decided),
        _table("questions", "What the paper leaves open", asked),
    ]
    folded = [
        _table("claims-undecided", f"{len(undecided)} claims without power to tell, and what would decide", undecided)
    ]
    return [table for table in shown if table.rows], [table for table in folded if table.rows]


def verdict_cell(verdict: str, tip: str = "") -> Cell:
    """A verdict as a sign, a word and a colour."""
    sign, tone = MARKS[verdict]
    return Cell(f"{sign} {verdict}", tip=tip, tone=tone)


def _table(key: str, title: str, results: Sequence[ClaimResult]) -> Table:
    header = ("Claim", "Verdict", "Here", "95 % interval", "In the paper", "Why, or why not")
    return Table(key, title, header, tuple(map(_row, results)), _NOTE, words=2)


def _row(one: ClaimResult) -> tuple[Cell, ...]:
    claim, found = one.claim, one.measured
    value, interval = Cell(NOT_MEASURED), Cell("–")
    if found is not None:
        unit = f" {claim.unit}" if claim.unit else ""
        value = Cell(
            f"{number(claim.scale * found.value, claim.decimals)}{unit}", tip=f"{found.what}; n = {found.n} {found.of}"
        )
        if found.low is not None and found.high is not None:
            ends = (number(claim.scale * end, claim.decimals) for end in (found.low, found.high))
            interval = Cell(f"[{', '.join(ends)}]")
    why = {
        HOLDS: f"range {claim.rule.words}" if claim.rule.words[0].isdigit() else claim.rule.words,
        FAILS: f"{found.what if found else ''}: would hold with {claim.rule.words}".removeprefix(": "),
        NO_POWER: f"needs {one.needs}" if one.needs else one.detail,
        NOT_MEASURED: one.detail,
    }[one.verdict]
    return (
        *(Cell(claim.statement, tip=f"holds with {claim.rule.words}"), verdict_cell(one.verdict), value, interval),
        *(Cell(paper_text(claim)), Cell(why)),
    )
