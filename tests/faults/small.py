"""A study whose stages take a second each: a random base of one layer, rollouts of sums."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from tasks.reporting.views.study import SCHEMAS
from tests.faults.numbers import SHORT, sums, write_rows
from tests.lab.study_runs import Lab, Study

SECONDS = 1800.0
"""For a machine that is busy; on free cores such a study takes half a minute."""


def words(folder: Path, base: Path, *assignments: str) -> list[str]:
    """The words of ``colinear study`` on 12 problems of two right and two wrong rollouts, written to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "rollouts.jsonl"
    if not file.exists():
        write_rows(file, sums(range(24), 1, 0, 1, 0))
    settings = [f"model.base={base}", "replicates=", "init_replicates=", "methods=sft,rft,dpo", *SHORT, *assignments]
    return ["--rollouts", str(file), *(word for one in settings for word in ("--set", one))]


def done(lab: Lab, given: list[str], out: str) -> Study:
    """A study that must end well."""
    study = lab.run(*given, out=out, timeout=SECONDS)
    assert study.code == 0, study.stderr
    return study


def check_same(study: Study, other: Study) -> None:
    """Every frame of the two folders is the same to the last bit."""
    for name in SCHEMAS:
        ours, theirs = (pl.read_parquet(one.folder / f"{name}.parquet") for one in (study, other))
        assert ours.equals(theirs), name
