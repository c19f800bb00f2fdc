"""What a sweep adds to a page of many studies: what came of each cell, and the paths between a method's seeds."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from tasks.reporting.formats import NOT_MEASURED, learning_rate, seconds
from tasks.reporting.tables.views import Cell, Cells, Table, said

_WIDTH = 60


@dataclass(frozen=True, eq=False)
class Sweep:
    """``name``: of the settings that all cells share; ``cells``: those of sweep.json, failed and diverged ones too;
    ``paths``: MIDPOINTS."""

    name: str
    cells: Sequence[Mapping[str, Any]]
    paths: pl.DataFrame

    @property
    def diverged(self) -> list[tuple[str, Mapping[str, Any]]]:
        """(cell, run) of every training that was ended for its numbers; one that two cells share is in both."""
        return [(cell["cell"], run) for cell in self.cells for run in cell["diverged"]]


def wrapped(*texts: str) -> tuple[str, ...]:
    """Texts as lines under a cell that do not push the next column out of sight: a line there is not broken."""
    return tuple(line for text in texts for line in textwrap.wrap(text, _WIDTH))


def cells_table(sweep: Sweep) -> Table:
    """One row a cell, failed and diverged ones too."""
    rows = []
    for cell in sweep.cells:
        stages = (
            Cell(f"{cell['computed']} computed", (f"{cell['hits']} from the cache", seconds(cell["seconds"])))
            if cell["computed"] is not None
            else Cell(NOT_MEASURED)
        )
        page = Cell(cell["cell"], said(cell["mlflow"] and f"MLflow {cell['mlflow'][:12]}"), cell["page"] or "")
        lost = tuple(f"{run['run']}: {run['reason']}" for run in cell["diverged"])
        what = {"done": "done", "diverged": "all methods diverged", "failed": "failed"}[cell["status"]]
        about = wrapped(*lost, *said(cell["error"]))
        rates = dict.fromkeys(learning_rate(run["lr"]) for run in cell["trained"])
        rows.append(
            Cells(page, Cell(f"{what}, {len(lost)} diverged" if lost and cell["status"] == "done" else what, about),
                  ", ".join(rates) or learning_rate(cell["lr"]), len(cell["trained"]), stages)
        )  # fmt: skip
    note = (
        "A cell is a study of its own, with a page of its own. Diverged: ended because a loss or gradient was not "
        "finite or the loss lay above its start (train.stop_above_start); that is what came of it, so it is not "
        "trained again. A failed cell is run again by the same command; what it had finished is kept. Stages and "
        "seconds are those of the last run of the sweep."
    )
    header = ("Cell", "Outcome", "Learning rates", "Trained runs", "Stages")
    return Table("cells", "The cells", header, rows, note, words=3)


def diverged_sentence(sweep: Sweep | None) -> Iterator[str]:
    """Which trainings diverged, each once though cells share it; and which cells failed."""
    if sweep is None:
        return
    runs = {(run["method"], run["seed"], run["data_seed"], run["lr"]): run for _, run in sweep.diverged}
    if runs:
        names = [
            f"{method} at lr {learning_rate(lr)} (seed {seed})"
            for method, seed, _, lr in sorted(runs, key=lambda key: (key[0], key[3], key[1]))
        ]
        verb = "training" if len(runs) == 1 else "trainings"
        yield f"{len(runs)} {verb} diverged and {'is' if len(runs) == 1 else 'are'} in no average: {', '.join(names)}."
    if failed := [cell["cell"] for cell in sweep.cells if cell["status"] == "failed"]:
        yield f"{len(failed)} of {len(sweep.cells)} cells failed and are missing here: {', '.join(failed)}."
