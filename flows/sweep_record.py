"""A sweep's own record: its MLflow run, and what came of each cell."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from flows.record import recorded
from flows.study_flow import StudyOutcome
from tasks.core.results import RunInfo
from tasks.reporting.publish.record import commit, versions
from tasks.settings.study import StudySpec
from tasks.settings.sweeps import Cell, SweepSpec
from tasks.storage.store import open_store
from tasks.workers.devices import allow

SWEEP = "sweep.json"


@dataclass(frozen=True)
class CellOutcome:
    """What came of one cell. ``diverged``: runs that were left out, as in `StudyOutcome`; of a cell all of whose
    methods diverged there is no ``study``, nor of one that failed with ``error``."""

    cell: Cell
    status: Literal["done", "diverged", "failed"]
    study: StudyOutcome | None = None
    diverged: tuple[dict[str, Any], ...] = ()
    error: str = ""

    def record(self, out: Path) -> dict[str, Any]:
        """The cell in sweep.json."""
        study = self.study
        return {
            "cell": self.cell.label,
            "values": dict(self.cell.values),
            "status": self.status,
            "seed": self.cell.spec.seed,
            "lr": self.cell.spec.train.lr,
            "diverged": [{key: value for key, value in one.items() if key != "found"} for one in self.diverged],
            "error": self.error,
            "trained": [asdict(info) for info, _ in study.trained] if study else [],
            "computed": study.computed if study else None,
            "hits": study.hits if study else None,
            "seconds": round(study.wall_seconds, 1) if study else None,
            "mlflow": study.study_run if study else None,
            "page": os.path.relpath(study.page, out) if study else None,
        }


@contextmanager
def recorded_sweep(spec: StudySpec, sweep: SweepSpec, cells: Sequence[Cell]) -> Iterator[str]:
    """The sweep's MLflow run."""
    allow()
    tags = {"kind": "sweep", "study": spec.name, "methods": ",".join(spec.methods)}
    params = {"cells": len(cells), **sweep.model_dump(mode="json")}
    with recorded(f"{spec.name}, {len(cells)} cells", tags, params) as run:
        yield run


def write_sweep(
    run: str, spec: StudySpec, sweep: SweepSpec, out: Path, outcomes: Sequence[CellOutcome]
) -> dict[str, Any]:
    """sweep.json in ``out``, replaced whole; its counts are metrics of the MLflow run as well."""
    found = [outcome.record(out) for outcome in outcomes]
    counts = {
        "cells": len(found),
        **{status: sum(one["status"] == status for one in found) for status in ("done", "diverged", "failed")},
        "diverged_runs": sum(len(one["diverged"]) for one in found),
        "computed": sum(one["computed"] or 0 for one in found),
        "hits": sum(one["hits"] or 0 for one in found),
    }
    record = {
        "name": spec.name,
        "sweep": sweep.model_dump(mode="json"),
        "mlflow": run,
        "versions": versions(),
        "commit": commit(),
        "counts": counts,
        "cells": found,
    }
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=out, suffix=".part", delete=False) as file:
        file.write(json.dumps(record, indent=1) + "\n")
    os.chmod(file.name, 0o644)
    os.replace(file.name, out / SWEEP)
    open_store().log_metrics(run, [(f"sweep_{name}", value, 0) for name, value in counts.items()])
    return record


def every_diverged(cell: Cell, reason: str) -> CellOutcome:
    """The outcome of a cell that was left with no method."""
    lost = tuple({**asdict(info), "reason": reason, "found": False} for info in cell.spec.runs())
    return CellOutcome(cell, "diverged", diverged=lost)


def called(info: RunInfo, cell: Cell) -> RunInfo:
    """A run under a name that it has in every cell that has it: two cells may share a training.

    What sets the training apart beside seeds and learning rate is in the cell's own values.
    """
    words = [f"{key}={value}" for key, value in _telling(cell.values).items()]
    return replace(info, run=" ".join([info.label, *words]))


def _telling(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in ("seed", "data_seed", "train.lr")}
