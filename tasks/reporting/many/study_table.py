"""The studies of a page: what each is and what sets it apart."""

from __future__ import annotations

from typing import Any

from tasks.core.results import RunInfo
from tasks.reporting.formats import NOT_MEASURED, learning_rate, listed, percent
from tasks.reporting.many.joined import Many, data_seed, differing, show
from tasks.reporting.many.studies import NamedStudy
from tasks.reporting.tables.views import Cell, Cells, Table

_SEEDS = ("name", "seed", "data_seed")
"""Settings with columns of their own."""


def studies_table(many: Many) -> Table:
    """One row a study: seeds, learning rates, base and its accuracy."""
    rows = []
    for place, study in enumerate(many.studies):
        runs = study.trained
        found = study.score(study.base.run, many.benchmark)
        repeated = sum(many.trainings[place, info.run].study != place for info in runs)
        shared = (f"{repeated} of them in an earlier study",) if repeated else ()
        accuracy = (
            Cell(percent(found.accuracy), (f"{percent(found.low)} to {percent(found.high)}, n = {found.n}",))
            if found
            else Cell(NOT_MEASURED)
        )
        rows.append(
            Cells(Cell(study.label, (f"settings {study.settings.get('name', 'unnamed')}",)), _seed(study),
                  _rates(runs), Cell(str(len(runs)), shared), Cell(f"base {many.bases[place] + 1}", (_model(study),)),
                  accuracy)
        )  # fmt: skip
    header = ("Study", "Seed, data order", "Learning rates", "Trained runs", "Base", "Base accuracy, %")
    note = (
        "Studies of one base number have the same base weights: it gives the same answer losses on the problems that "
        "both asked (median relative difference below 1 %), or, where they share none, it is made by the same "
        "settings. Base accuracy: the first study's benchmark, Wilson's 95 % interval."
    )
    return Table("studies", "The studies", header, rows, note, words=3)


def settings_table(many: Many) -> Table:
    """The settings that are not the same in all studies, one row a key."""
    keys = differing([study.settings for study in many.studies], without=("name",))
    rows = [Cells(key, *(_value(study.settings, key) for study in many.studies)) for key in keys]
    note = "Only settings that differ; all others are equal in all studies." if rows else "No setting differs."
    header = ("Setting", *(study.label for study in many.studies))
    return Table("settings-that-differ", "Settings that differ", header, rows, note, words=len(header))


def software(many: Many) -> list[str]:
    """Versions and commits that are not the same everywhere, as notes."""
    notes = []
    versions: list[dict[str, Any]] = [dict(study.record.get("versions") or {}) for study in many.studies]
    if changed := differing(versions):
        who = [f"{name} {listed(list(dict.fromkeys(str(one.get(name)) for one in versions)))}" for name in changed]
        notes.append(f"The studies were made with different versions: {', '.join(who)}.")
    commits = list(dict.fromkeys(str(study.record.get("commit") or "not recorded") for study in many.studies))
    if len(commits) > 1:
        notes.append(f"The studies were made at different commits: {listed(commits)}.")
    return notes


def _value(settings: Any, key: str) -> str:
    return show(settings[key]) if key in settings else "-"


def _seed(study: NamedStudy) -> str:
    return f"{show(study.settings.get('seed'))}, {show(data_seed(study.settings))}"


def _rates(runs: list[RunInfo]) -> str:
    by_rate: dict[float | None, list[str]] = {}
    for info in runs:
        by_rate.setdefault(info.lr, []).append(info.method)
    parts = []
    for lr in sorted(by_rate, key=lambda lr: -(lr or 0)):
        methods = list(dict.fromkeys(by_rate[lr]))
        most = len(methods) > 2 and len(by_rate) > 1
        parts.append(learning_rate(lr) if len(by_rate) == 1 or most else f"{learning_rate(lr)} ({', '.join(methods)})")
    return ", ".join(parts)


def _model(study: NamedStudy) -> str:
    model = str(study.settings.get("model.base") or study.base.run)
    seed = study.settings.get("tiny.seed")
    return f"{model}, pretraining seed {seed}" if model == "tiny" else model
