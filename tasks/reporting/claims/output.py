"""Verdicts as ``claims.json``, as tables of the report and its Markdown form, and as a sentence."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from tasks.reporting.claims.claim import Claim, ClaimResult
from tasks.reporting.claims.measured import KIND, NOT_MEASURED, Noise
from tasks.reporting.claims.paper import Sensitivity
from tasks.reporting.claims.rules import FAILS, HOLDS, NO_POWER
from tasks.reporting.estimates import Estimate
from tasks.reporting.formats import number
from tasks.reporting.tables.views import Cell, Cells, Table, said

PAPER = "arXiv 2606.23740"
MARKS = {HOLDS: ("✓", "good"), FAILS: ("✗", "bad"), NO_POWER: ("?", "open"), NOT_MEASURED: ("–", "open")}
"""Verdict -> its sign and its tone, in the order in which verdicts are read."""

_NOTE = (
    "A rule reads the 95 % interval: a claim holds where all of it is in the range, does not hold where none is; no "
    "power where it lies on both sides or is not known, so that an equality holds only where the interval is narrow "
    "and a difference only where it leaves out 0. A claim on several pairs holds where it does for every one; the one "
    "that decides is shown, claims.json has all. The value is that of runs in one data order, which share its noise; "
    "the noise floor (range over runs of one method in two data orders, or how far the measure moves with another "
    "order) judges the value across data orders. Intervals of cosines, angles, overlaps, norms and shares: over the "
    "data orders where both methods were trained in several, else over layers (t below 10 of them, else a bootstrap); "
    "of barriers: over problems; of ranks, depths and CKA: from the runs in another data order (Student's t, wide "
    "where there is one replicate); of accuracy: paired differences with the spread of repeated trainings, where any "
    "was; that one is higher takes McNemar's exact test as well, of that pair alone."
)
_SENSITIVITY_NOTE = (
    "Tolerances are conventions. Each is halved and doubled by itself (a factor: its root and its square), and all "
    "claims and open questions are judged again. Where many verdicts change, read the numbers, not the verdicts."
)
_TOLERANCES = {
    "likeness": "Around cosines, overlaps, shares and CKA",
    "degrees": "Around angles, degrees",
    "factor": "Factor of ratios",
    "negligible": "A barrier that is none, nats/token",
    "rank": "Effective ranks that are equal, of SFT's",
    "depth": "Logit-lens depths that are equal, of the layers",
    "points": "Difference in accuracy of interest, share",
}


def claims_json(results: Sequence[ClaimResult]) -> str:
    """``claims.json``: one object a claim; null where there is nothing. Numbers are in the unit that is named."""
    return json.dumps([_record(result) for result in results], indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def claims_sentence(results: Sequence[ClaimResult]) -> str:
    """The verdicts counted: "Of 31 claims of the paper (...) 12 hold in this study, 5 do not, ..."; empty for none."""
    said = []
    for asked, lead in ((False, f"claim{{}} of the paper ({PAPER})"), (True, "question{} that the paper leaves open")):
        own = [result for result in results if result.claim.open == asked]
        if own:
            said.append(f"Of {len(own)} {lead.format('s' if len(own) != 1 else '')} {_counted(own)}.")
    return " ".join(said)


def claims_tables(results: Sequence[ClaimResult]) -> list[Table]:
    """The claims with a number, those that hold first; the open questions; and what was not measured with the reason.
    A page has a line for each, its file the rule, the value across data orders, the noise floor and n as well."""
    claims = [one for one in results if not one.claim.open]
    asked = [one for one in results if one.claim.open]
    answered = [one for verdict in (HOLDS, FAILS, NO_POWER) for one in claims if one.verdict == verdict]
    unread = [one for one in claims if one.verdict == NOT_MEASURED]
    header = (
        *("Claim", "In this study", "Here", "95 % interval", "Paper", "Why, or why not"),
        *("Range in which it holds", "Across data orders", "Noise floor", "n"),
    )
    tables = [
        Table("claims", "The paper's claims", header, tuple(map(_row, answered)), _NOTE, words=2, shown=6),
        Table("open-questions", "What the paper leaves open", header, tuple(map(_row, asked)), _NOTE, words=2, shown=6),
        Table(
            "claims-not-measured", "The paper's claims that were not measured", ("Claim", "Why", "Paper"),
            tuple(Cells(one.claim.statement, one.detail, paper_text(one.claim)) for one in unread), "",
            words=3,
        ),
    ]  # fmt: skip
    return [table for table in tables if table.rows]


def sensitivity_table(found: Sequence[Sensitivity]) -> Table:
    """How many verdicts change at half and at twice each tolerance, and which."""
    rows = []
    for one in found:
        cells = [
            Cell(str(len(changes)), tuple(f"{id}: {verdict}" for id, verdict in changes.items()))
            for _, changes in (one.half, one.twice)
        ]
        rows.append(Cells(_TOLERANCES[one.tolerance], f"{one.size:g}", *cells))
    header = ("Tolerance", "Size", "Verdicts that change at half", "Verdicts that change at twice")
    return Table("sensitivity", "How far verdicts hang on the tolerances", header, rows, _SENSITIVITY_NOTE)


def paper_text(claim: Claim) -> str:
    """The paper's number as it reads, with its unit."""
    if claim.words:
        return claim.words
    if not claim.paper:
        return "no number"
    ends = list(dict.fromkeys(_number(claim, value) for value in (min(claim.paper), max(claim.paper))))
    return " ".join([" to ".join(ends), *said(claim.unit)])


def _record(result: ClaimResult) -> dict[str, Any]:
    claim, found = result.claim, result.measured
    return {
        "id": claim.id,
        "statement": claim.statement,
        "source": claim.source,
        "open": claim.open,
        "paper": list(claim.paper) or None,
        "paper_text": paper_text(claim),
        "unit": claim.unit or None,
        "measured": claim.scale * found.value if found else None,
        "interval": [_scaled(claim, found.low), _scaled(claim, found.high)]
        if found and found.low is not None
        else None,
        "across_orders": _crossed(claim, found.crossed) if found and found.crossed else None,
        "noise_floor": _noise(claim, found.noise) if found and found.noise else None,
        "n": found.n if found else None,
        "of": found.of if found else None,
        "what": found.what if found else None,
        "rule": claim.rule.words,
        "verdict": result.verdict,
        "detail": result.detail,
        "needs": result.needs or None,
    }


def _scaled(claim: Claim, value: float | None) -> float | None:
    return None if value is None else claim.scale * value


def _crossed(claim: Claim, found: Estimate) -> dict[str, Any]:
    interval = None if found.low is None else [_scaled(claim, found.low), _scaled(claim, found.high)]
    return {"value": _scaled(claim, found.value), "interval": interval, "n": found.n}


def _noise(claim: Claim, noise: Noise) -> dict[str, Any]:
    return {"kind": noise.kind, "low": claim.scale * noise.low, "high": claim.scale * noise.high, "n": noise.n}


def _row(one: ClaimResult) -> Cells:
    claim, found, rule = one.claim, one.measured, one.claim.rule.words
    value, interval, beside = Cell(NOT_MEASURED), "–", Cells("–", NOT_MEASURED, "–")
    if found is not None:
        value = Cell(
            " ".join([_number(claim, found.value), *said(claim.unit)]), (found.what, f"n = {found.n} {found.of}")
        )
        if found.low is not None and found.high is not None:
            interval = f"[{_number(claim, found.low)}, {_number(claim, found.high)}]"
        of = Cell(str(found.n), (found.of,))
        beside = Cells(_crossed_cell(claim, found.crossed), _floor_cell(claim, found.noise), of)
    why = {
        HOLDS: f"range {rule}" if rule[0].isdigit() else rule,
        FAILS: f"{found.what if found else ''}: would hold with {rule}".removeprefix(": "),
        NO_POWER: f"needs {one.needs}" if one.needs else one.detail,
        NOT_MEASURED: one.detail,
    }[one.verdict]
    sign, tone = MARKS[one.verdict]
    lead = (Cell(claim.statement, (f"holds with {rule}",)), Cell(f"{sign} {one.verdict}", tone=tone), value, interval)
    return Cells(*lead, paper_text(claim), why, rule, *beside)


def _crossed_cell(claim: Claim, found: Estimate | None) -> Cell:
    if found is None:
        return Cell("-")
    interval = found.interval(partial(_number, claim))
    return Cell(_number(claim, found.value), (*said(interval), f"n = {found.n}"))


def _floor_cell(claim: Claim, noise: Noise | None) -> Cell:
    if noise is None:
        return Cell(NOT_MEASURED)
    ends = dict.fromkeys((_number(claim, noise.low), _number(claim, noise.high)))
    text = f"up to {_number(claim, noise.high)}" if noise.kind == KIND else " to ".join(ends)
    return Cell(text, (f"{noise.kind}, n = {noise.n}",))


def _number(claim: Claim, value: float | None) -> str:
    return number(_scaled(claim, value), claim.decimals)


def _counted(results: Sequence[ClaimResult]) -> str:
    counts = Counter(result.verdict for result in results)
    words = {
        HOLDS: ("holds in this study", "hold in this study"),
        FAILS: ("does not", "do not"),
        NO_POWER: ("is without power", "are without power"),
        NOT_MEASURED: (NOT_MEASURED, NOT_MEASURED),
    }
    *first, last = [f"{counts[verdict]} {words[verdict][counts[verdict] != 1]}" for verdict in MARKS]
    return f"{', '.join(first)} and {last}"
