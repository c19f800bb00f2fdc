"""The folder of a training's trajectory: its page, the Markdown form, the table as CSV and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from tasks.reporting.charts.lines import DASHES, Line, lines_views
from tasks.reporting.charts.picture import Picture
from tasks.reporting.charts.style import INK, MARKERS, PALETTE, figure, quantity
from tasks.reporting.files import json_text, write_files
from tasks.reporting.findings.headline import Findings
from tasks.reporting.formats import number, percent, size
from tasks.reporting.publish.figure_files import figure_files, page_files
from tasks.reporting.render.document import Document
from tasks.reporting.tables.views import Cells, Table

FILES = ("trajectory.csv", "trajectory.json")

NEAR = 0.9
"""Cosine to the last checkpoint from which on a sentence calls an update near it."""

Rows = Sequence[Mapping[str, Any]]
Locks = Sequence[Mapping[str, Any]]


def write_trajectory(name: str, record: Mapping[str, Any], out: Path) -> list[Path]:
    """Write report.html (first of the returned paths), report.md, trajectory.csv, trajectory.json and the figure.

    ``record``: ``checkpoints`` (a mapping a row, by step), ``locks`` and ``modules``, as
    `tasks.geometry.trajectory.Trajectory` has them. The CSV has full precision.
    """
    rows, locks = record["checkpoints"], record["locks"]
    document = Document(
        brand="colinear compare",
        name=f"{name}: {len(rows)} checkpoints",
        facts=(
            ("Checkpoints", str(len(rows))),
            ("Steps", f"{rows[0]['step']} to {rows[-1]['step']}"),
            ("Modules", str(record["modules"])),
        ),
        findings=Findings((), sentences(rows, locks), ()),
        notes=(),
        pictures=(_picture(rows, locks),),
        headline=trajectory_table(rows, locks),
        sections=(),
        files=FILES,
    )
    contents = {
        **page_files(document),
        "trajectory.csv": pl.DataFrame(rows).write_csv().encode(),
        "trajectory.json": json_text(record).encode(),
        **figure_files(document.drawn),
    }
    return write_files(out, contents)


def sentences(rows: Rows, locks: Locks) -> tuple[str, ...]:
    """What the trajectory says, most important first."""
    first, last = rows[0], rows[-1]
    since = max((place + 1 for place, row in enumerate(rows) if (row["cosine_to_last"] or 0) < NEAR), default=0)
    near = f"; from step {rows[since]['step']} on it was {NEAR:g} or more" if since < len(rows) - 1 else ""
    said = [
        f"At step {first['step']} the update's norm was {size(first['norm'], 3)} of {size(last['norm'], 3)} at step "
        f"{last['step']}, its cosine to that last one {_known(first['cosine_to_last'], 3)}{near}."
    ]
    said += [_locked(lock) for lock in locks]
    turns = [row["turn"] for row in rows if row["turn"] is not None]
    if len(turns) > 1:
        said.append(
            f"Between successive checkpoints it turned by {number(turns[0], 1)}° at first and {number(turns[-1], 1)}° "
            "at last."
        )
    if last["rank1_share"] is not None:
        said.append(f"{percent(last['rank1_share'])} % of the last update lies in the first direction of its modules.")
    return tuple(said)


def _locked(lock: Mapping[str, Any]) -> str:
    where = f"top-{lock['k']} output subspace"
    limit = f"overlap {lock['threshold']:g} or more with the last one's; random subspaces have {lock['null']:.2g}"
    if lock["step"] is None:
        return f"The {where} was still moving before the last checkpoint (never settled at {limit})."
    return f"The {where} is the final one from step {lock['step']} on ({limit})."


def trajectory_table(rows: Rows, locks: Locks) -> Table:
    """A row a checkpoint."""
    ks = [lock["k"] for lock in locks]
    header = ["Step", "Norm", "Cosine to last", "Turn, °", "Rank-1 share, %", *(f"Top-{k} overlap" for k in ks)]
    cells = [
        Cells(
            row["step"], size(row["norm"], 3), _known(row["cosine_to_last"], 3), _known(row["turn"], 1),
            "-" if row["rank1_share"] is None else percent(row["rank1_share"]),
            *(_known(row[f"overlap_{k}"], 3) for k in ks),
        )
        for row in rows
    ]  # fmt: skip
    nulls = ", ".join(f"{lock['null']:.2g} (k = {lock['k']})" for lock in locks)
    note = (
        "Of the whole update: Frobenius norm, cosine with the last checkpoint's, and the angle to the checkpoint "
        "before (turn). Rank-1 share: of its squared norm, what lies in the first singular direction of each module. "
        "Overlap: of the top-k left singular subspaces with the last one's, 1 for the same, mean over modules; random "
        f"subspaces have {nulls} on average."
    )
    return Table("trajectory", "The checkpoints", header, cells, note, words=0)


def _known(value: float | None, decimals: int) -> str:
    return "-" if value is None else number(value, decimals)


def _picture(rows: Rows, locks: Locks) -> Picture:
    def line(key: str, name: str, place: int) -> Line:
        points = [(row["step"], row[key]) for row in rows]
        return Line(points, name, PALETTE[place], MARKERS[place])

    lines = [line("cosine_to_last", "cosine to the last", 0), line("rank1_share", "rank-1 share", 1)]
    lines += [line(f"overlap_{lock['k']}", f"top-{lock['k']} overlap", 2 + place) for place, lock in enumerate(locks)]
    ends = rows[0]["step"], rows[-1]["step"]
    lines.append(Line([(end, locks[0]["threshold"]) for end in ends], "locked", INK, "stroke", DASHES["order"]))
    for place, lock in enumerate(locks):
        null = [(end, lock["null"]) for end in ends]
        lines.append(Line(null, f"random, top-{lock['k']}", PALETTE[2 + place], "stroke", DASHES["initialisation"]))
    values = [value for one in lines for _, value in one.points if value is not None]
    x = quantity("x", "Optimiser step", ends, format="d", tickCount=6, tickMinStep=1)
    y = quantity("y", None, (min(0.0, *values), 1.0), grid=True, tickCount=5)
    (view,) = lines_views([lines], x, y)
    note = (
        "Overlap: of the top-k left singular subspaces with the last checkpoint's, mean over modules; dotted: what "
        "random subspaces have; broken: from here on a subspace counts as the final one."
    )
    return Picture(
        "trajectory", "When did the update become what it is?", "Cosine, rank-1 share and overlaps by step",
        figure(view, 150), note, "trajectory", pl.DataFrame(rows), "trajectory.csv",
    )  # fmt: skip
