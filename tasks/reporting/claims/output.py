"""Verdicts as ``claims.json``, as tables of the report and its Markdown twin, and as a sentence."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tasks.reporting.claims.claim import Claim, ClaimResult
from tasks.reporting.claims.measured import NOT_MEASURED, Noise
from tasks.reporting.claims.rules import FAILS, HOLDS, NO_POWER
from tasks.reporting.claims.spread import KIND
from tasks.reporting.formats import number
from tasks.reporting.tables import Cell, Table, said

PAPER = "arXiv 2606.23740"
VERDICTS = (HOLDS, FAILS, NO_POWER, NOT_MEASURED)

_NOTE = (
    "A rule reads the 95 % interval: a claim holds where all of it is in the range, does not hold where none is; "
    "no power where it lies on both sides or is not known, so that an equality holds only where the interval is narrow "
    "and a difference only where it leaves out 0. A claim on several pairs holds where it does for every one; the one "
    "that decides is shown, claims.json has all. Noise floor: the same measure between runs of one method (range), or "
    "how far it moves with another data order. Intervals of cosines, angles, overlaps and norms: bootstrap over whole "
    "layers, Student's t over layers where there are fewer than 10; of barriers: over problems; of ranks, depths and "
    "CKA: from the runs in another data order (Student's t, wide where there is one twin); of accuracy: paired "
    "differences, where McNemar's test decides."
)


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
    """The claims with a number, the open questions, and the claims that were not measured with the reason."""
    answered = [result for result in results if not result.claim.open and result.verdict != NOT_MEASURED]
    asked = [result for result in results if result.claim.open]
    unread = [result for result in results if not result.claim.open and result.verdict == NOT_MEASURED]
    header = ("Claim", "In this study", "Paper", "Range in which it holds", "Measured", "Noise floor", "n")
    tables = [
        Table("claims", "The paper's claims", header, tuple(map(_row, answered)), _NOTE, words=4),
        Table("open-questions", "What the paper leaves open", header, tuple(map(_row, asked)), _NOTE, words=4),
        Table(
            "claims-not-measured", "The paper's claims that were not measured", ("Claim", "Why", "Paper"),
            tuple((_statement(one), Cell(one.detail), Cell(paper_text(one.claim))) for one in unread), "", words=3,
        ),
    ]  # fmt: skip
    return [table for table in tables if table.rows]


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
        "noise_floor": _noise(claim, found.noise) if found and found.noise else None,
        "n": found.n if found else None,
        "of": found.of if found else None,
        "what": found.what if found else None,
        "rule": claim.rule.words,
        "verdict": result.verdict,
        "detail": result.detail,
    }


def _scaled(claim: Claim, value: float | None) -> float | None:
    return None if value is None else claim.scale * value


def _noise(claim: Claim, noise: Noise) -> dict[str, Any]:
    return {"kind": noise.kind, "low": claim.scale * noise.low, "high": claim.scale * noise.high, "n": noise.n}


def _row(result: ClaimResult) -> tuple[Cell, ...]:
    claim, found = result.claim, result.measured
    lead = (_statement(result), Cell(result.verdict), Cell(paper_text(claim)), Cell(claim.rule.words))
    if found is None:
        return (*lead, Cell(NOT_MEASURED, said(result.detail)), Cell(NOT_MEASURED), Cell("-"))
    known = found.low is not None and found.high is not None
    interval = f"[{_number(claim, found.low)}, {_number(claim, found.high)}]" if known else "no interval"
    value = Cell(" ".join([_number(claim, found.value), *said(claim.unit)]), (interval, found.what))
    return (*lead, value, _floor_cell(claim, found.noise), Cell(str(found.n), (found.of,)))


def _floor_cell(claim: Claim, noise: Noise | None) -> Cell:
    if noise is None:
        return Cell(NOT_MEASURED)
    ends = dict.fromkeys((_number(claim, noise.low), _number(claim, noise.high)))
    text = f"up to {_number(claim, noise.high)}" if noise.kind == KIND else " to ".join(ends)
    return Cell(text, (f"{noise.kind}, n = {noise.n}",))


def _statement(result: ClaimResult) -> Cell:
    return Cell(result.claim.statement)


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
    *first, last = [f"{counts[verdict]} {words[verdict][counts[verdict] != 1]}" for verdict in VERDICTS]
    return f"{', '.join(first)} and {last}"
