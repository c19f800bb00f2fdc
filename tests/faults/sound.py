"""What must hold of a state folder after all that was done to it, and what of its numbers."""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import polars as pl
from filelock import FileLock

from tasks.core.digests import verify_entry
from tasks.reporting.views.study import SCHEMAS


class Record:
    """An MLflow database that nobody writes to any more, and the folder with its runs' artifacts."""

    def __init__(self, database: Path, artifacts: Path) -> None:
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=f"sqlite:///{database}")
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        self.runs: list[Any] = list(client.search_runs(experiments, max_results=50_000))
        self.artifacts = artifacts

    def folder(self, run: Any) -> Path:
        [folder] = self.artifacts.glob(f"*/{run.info.run_id}/artifacts")
        return folder / "output"

    @property
    def entries(self) -> list[Any]:
        """The runs that later studies will take for finished stages."""
        tags = [(run, run.data.tags) for run in self.runs if run.info.status == "FINISHED"]
        return [run for run, tags in tags if tags.get("cache.complete") == "1"]

    @property
    def adapters(self) -> dict[str, str]:
        """The sha256 of every run's adapter."""
        trained = [run for run in self.entries if run.data.tags["stage"] == "train"]
        files = {run.data.tags["run"]: self.folder(run) / "adapter" / "adapter_model.safetensors" for run in trained}
        return {name: sha256(file.read_bytes()).hexdigest() for name, file in files.items()}

    def check(self) -> None:
        """Every entry is whole, there is one of each stage, and no run is left open."""
        for run in self.entries:
            verify_entry(self.folder(run), run.data.tags["cache.manifest"])
        times = Counter(run.data.tags["cache.key"] for run in self.entries)
        names = {run.data.tags["cache.key"]: run.info.run_name for run in self.entries}
        assert {names[key]: n for key, n in times.items() if n > 1} == {}
        assert [run.info.run_name for run in self.runs if run.info.status == "RUNNING"] == []


def copy_of(home: Path, target: Path, stages: Sequence[str]) -> None:
    """A state folder at ``target`` that knows what ``home`` computed of these stages, and nothing else."""
    shutil.copytree(home / "artifacts", target / "artifacts")
    shutil.copyfile(home / "mlflow.db", target / "mlflow.db")
    with closing(sqlite3.connect(target / "mlflow.db")) as database, database:
        for table, column in (("runs", "artifact_uri"), ("experiments", "artifact_location"), ("tags", "value")):
            database.execute(f"update {table} set {column} = replace({column}, ?, ?)", (str(home), str(target)))
        known = f"select run_uuid from tags where key = 'stage' and value in ({', '.join('?' * len(stages))})"
        database.execute(
            f"update tags set value = '0' where key = 'cache.complete' and run_uuid not in ({known})", tuple(stages)
        )


def check_folder(folder: Path) -> None:
    """No lock is held, nothing half made is left."""
    for path in [*folder.glob("home/**/*.lock"), *folder.glob("tmp/colinear-*/*.lock")]:
        with FileLock(path, timeout=0):
            pass
    left = [path for name in ("staging", "outbox", "checkpoints", "partial") for path in folder.glob(f"home/{name}/*")]
    left += folder.glob("home/**/*.making")
    assert not left, [path.relative_to(folder).as_posix() for path in left]


def check_same_numbers(out: Path, reference: Path) -> None:
    """Every frame of two studies' folders, to the last bit."""
    for name in SCHEMAS:
        ours, theirs = pl.read_parquet(out / f"{name}.parquet"), pl.read_parquet(reference / f"{name}.parquet")
        assert ours.equals(theirs), name
