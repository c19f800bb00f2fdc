"""The paper's claims over the studies: how often each holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from tasks.reporting.claims.measured import NOT_MEASURED
from tasks.reporting.claims.rules import FAILS, HOLDS, NO_POWER
from tasks.reporting.estimates import spread
from tasks.reporting.formats import significant
from tasks.reporting.many.joined import Many
from tasks.reporting.many.rows import spread_cell
from tasks.reporting.tables.views import Cell, Cells, Table

VERDICTS = (HOLDS, FAILS, NO_POWER, NOT_MEASURED)
CLAIMS: dict[str, pl.DataType] = {
    "study": pl.String(),
    "id": pl.String(),
    "statement": pl.String(),
    "open": pl.Boolean(),
    "paper": pl.String(),
    "unit": pl.String(),
    "verdict": pl.String(),
    "measured": pl.Float64(),
    "detail": pl.String(),
}


@dataclass(frozen=True)
class Joined:
    """One claim with its entry of each study, by the study's label; a study of another version may lack it."""

    id: str
    entries: Mapping[str, Mapping[str, Any]]

    @property
    def first(self) -> Mapping[str, Any]:
        return next(iter(self.entries.values()))

    @property
    def verdicts(self) -> Counter[str]:
        return Counter(str(entry["verdict"]) for entry in self.entries.values())

    @property
    def agreed(self) -> str | None:
        """The verdict of every study that measured it; None where they disagree or none did."""
        found = {verdict for verdict in self.verdicts if verdict != NOT_MEASURED}
        return found.pop() if len(found) == 1 else None

    @property
    def measured(self) -> int:
        """Studies that have a number for it."""
        return sum(n for verdict, n in self.verdicts.items() if verdict != NOT_MEASURED)


def joined_claims(many: Many) -> list[Joined]:
    """Every claim in the order of the first study that has it."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for study in many.studies:
        for entry in study.claims:
            found.setdefault(str(entry["id"]), {})[study.label] = entry
    return [Joined(name, entries) for name, entries in found.items()]


def claims_frame(many: Many) -> pl.DataFrame:
    """One row a claim and study."""
    keys = ("id", "statement", "open", "paper_text", "unit", "verdict", "measured", "detail")
    rows = [(study.label, *(entry[key] for key in keys)) for study in many.studies for entry in study.claims]
    return pl.DataFrame(rows, schema=CLAIMS, orient="row")


def claim_tables(many: Many) -> list[Table]:
    """The claims and the open questions that some study measured; each study's verdict, and what no study measured."""
    every = joined_claims(many)
    known = [one for one in every if one.measured]
    unread = [one for one in every if not one.measured]
    rows = [Cells(one.first["statement"], one.first["detail"]) for one in unread]
    tables = (
        _counted("claims", "The paper's claims", [one for one in known if not one.first["open"]], many),
        _counted("open-questions", "What the paper leaves open", [one for one in known if one.first["open"]], many),
        _each(known, many),
        Table("claims-not-measured", "Claims that no study measured", ("Claim", "Why, in the first study"), rows,
              "", words=2),
    )  # fmt: skip
    return [table for table in tables if table.rows]


def _counted(key: str, title: str, claims: list[Joined], many: Many) -> Table:
    rows = []
    for one in claims:
        found, first = one.verdicts, one.first
        parts = [f"{verdict} in {found[verdict]}" for verdict in VERDICTS if found[verdict] and verdict != NOT_MEASURED]
        beside = [f"of {one.measured} that measured it"]
        beside += [f"{NOT_MEASURED} in {missing}"] if (missing := len(many.studies) - one.measured) else []
        values = spread(_number(entry["measured"]) for entry in one.entries.values())
        unit = str(first["unit"] or "")
        rows.append(
            Cells(first["statement"], Cell("; ".join(parts), tuple(beside)), first["paper_text"],
                  unit or "-", spread_cell(values, significant, of=one.measured))
        )  # fmt: skip
    note = (
        f"Verdicts of {len(many.studies)} studies, each by its own 95 % interval and noise floors; studies that share "
        "trainings or a base do not decide independently. Measured: mean over studies of the number that decided."
    )
    return Table(key, title, ("Claim", "Over the studies", "Paper", "Unit", "Measured"), rows, note, words=4)


def _each(claims: list[Joined], many: Many) -> Table:
    labels = [study.label for study in many.studies]
    rows = []
    for one in claims:
        cells = []
        for label in labels:
            entry = one.entries.get(label)
            value = _number(entry["measured"]) if entry else None
            verdict = str(entry["verdict"]) if entry else NOT_MEASURED
            cells.append(Cell(verdict, () if value is None else (significant(value),)))
        rows.append(Cells(one.first["statement"], *cells))
    return Table("verdicts", "Each study's verdicts", ("Claim", *labels), rows, "", words=1 + len(labels))


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
