"""Damage to what the store keeps: files, folders, manifests and rows of MLflow's database, drawn at random.

After each one the stage's look-up must find either the sound output or nothing, and say what was wrong; computing the
stage again gives the same bytes.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from rich.console import Console
from safetensors.numpy import save_file

from flows.cli.terminal import StudyDisplay
from flows.record import damage_notes
from tasks.core.digests import Damaged, StageKey, build_manifest, manifest_digest
from tasks.core.events import Event, at_work, damaged, listening
from tasks.core.results import ArtifactRef, StageResult
from tasks.storage.copies import Copies
from tasks.storage.store import Store
from tests.lab.homes import furnished

STAGES = ("rollouts", "train", "evaluate")
DRAWS, MORE = 30, 150


def compute(stage: str, folder: Path) -> dict[str, Any]:
    """Output as stages have it: a frame, weights in a folder of their own, a record."""
    rng = np.random.default_rng(STAGES.index(stage))
    pl.DataFrame({"problem_id": ["a", "b", "c"], "reward": rng.random(3)}).write_parquet(folder / "rows.parquet")
    (folder / "adapter").mkdir()
    save_file({"lora_A": rng.random((8, 16)).astype("f4")}, folder / "adapter" / "adapter_model.safetensors")
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps({"r": 8, "stage": stage}))
    return {"rows": 3, "of": stage}


@dataclass
class Lab:
    """A store with one entry a stage, and the way back to how it was."""

    store: Store
    keys: dict[str, StageKey]
    runs: dict[str, str]
    content: dict[str, dict[str, Any]]
    database: sqlite3.Connection
    files: Path
    told: list[Event] = field(default_factory=list)

    def output(self, stage: str) -> Path:
        (folder,) = (self.store.root / "artifacts").glob(f"*/{self.runs[stage]}/artifacts/output")
        return folder

    def sql(self, text: str, *values: object) -> None:
        with closing(sqlite3.connect(self.store.root / "mlflow.db")) as database, database:
            database.execute(text, values)

    def tag(self, stage: str, name: str, value: str) -> None:
        self.sql("update tags set value = ? where run_uuid = ? and key = ?", value, self.runs[stage], name)

    def restore(self) -> None:
        shutil.rmtree(self.store.root / "artifacts")
        shutil.copytree(self.files, self.store.root / "artifacts")
        with closing(sqlite3.connect(self.store.root / "mlflow.db")) as database:
            self.database.backup(database)

    def find(self, stage: str) -> Any:
        """The look-up of a process that has verified nothing yet; notes what it tells."""
        self.store._copies = Copies(self.store._fetch)
        with listening(self.told.append):
            return self.store.find(self.keys[stage])

    def put(self, stage: str) -> Any:
        key = self.keys[stage]
        with self.store.locked(key):
            return self.store.produce(
                key, self.store.open_run(f"{stage} of all", key=key), lambda out: compute(stage, out)
            )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("damage")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLINEAR_HOME", str(furnished(folder / "home")))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        keys = {stage: StageKey(stage, 1, {"input": "0" * 64}, {}) for stage in STAGES}
        lab = Lab(Store(), keys, {}, {}, sqlite3.connect(":memory:"), folder / "pristine")
        for stage in STAGES:
            lab.runs[stage] = lab.put(stage).ref.run_id
            lab.content[stage] = build_manifest(lab.output(stage))
        shutil.copytree(lab.store.root / "artifacts", lab.files)
        with closing(sqlite3.connect(lab.store.root / "mlflow.db")) as database:
            database.backup(lab.database)
        yield lab


@pytest.fixture
def lab(made: Lab) -> Iterator[Lab]:
    made.told.clear()
    yield made
    made.restore()


# --- kinds of damage: what is done to a stage's entry, and what the user is told -------------------------------------


def file_of(lab: Lab, stage: str, rng: random.Random) -> Path:
    return rng.choice([path for path in sorted(lab.output(stage).rglob("*")) if path.is_file()])


def truncate(lab: Lab, stage: str, rng: random.Random) -> str:
    path = file_of(lab, stage, rng)
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])
    return f"{path.relative_to(lab.output(stage)).as_posix()} does not have its recorded digest"


def flip(lab: Lab, stage: str, rng: random.Random) -> str:
    path = file_of(lab, stage, rng)
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return f"{path.relative_to(lab.output(stage)).as_posix()} does not have its recorded digest"


def delete(lab: Lab, stage: str, rng: random.Random) -> str:
    path = file_of(lab, stage, rng)
    path.unlink()
    return f"{path.relative_to(lab.output(stage)).as_posix()} is missing"


def delete_folder(lab: Lab, stage: str, rng: random.Random) -> str:
    shutil.rmtree(rng.choice([lab.output(stage), lab.output(stage).parent]))
    return "is missing"


def swap_files(lab: Lab, stage: str, rng: random.Random) -> str:
    other = rng.choice([name for name in STAGES if name != stage])
    name = rng.choice(["rows.parquet", "adapter/adapter_model.safetensors", "adapter/adapter_config.json"])
    exchange(lab.output(stage) / name, lab.output(other) / name)
    return f"{name} does not have its recorded digest"


def swap_folders(lab: Lab, stage: str, rng: random.Random) -> str:
    """The files of two entries, or these with their manifests: each is whole and another's."""
    other = rng.choice([name for name in STAGES if name != stage])
    if rng.random() < 0.5:
        exchange(lab.output(stage), lab.output(other))
        return "does not have its recorded digest"
    exchange(lab.output(stage).parent, lab.output(other).parent)
    return "manifest.json is not the one that was recorded"


def exchange(a: Path, b: Path) -> None:
    a.rename(a.with_name("aside"))
    b.rename(a)
    a.with_name("aside").rename(b)


def lie(lab: Lab, stage: str, rng: random.Random) -> str:
    """Other rewards, and a manifest that agrees with them."""
    rows = lab.output(stage) / "rows.parquet"
    pl.read_parquet(rows).with_columns(reward=1.0).write_parquet(rows)
    (lab.output(stage).parent / "manifest.json").write_text(json.dumps(build_manifest(lab.output(stage))))
    return "manifest.json is not the one that was recorded"


def spoil_manifest(lab: Lab, stage: str, rng: random.Random) -> str:
    path = lab.output(stage).parent / "manifest.json"
    if rng.random() < 0.3:
        path.unlink()
        return "manifest.json is missing"
    content = path.read_bytes()
    path.write_bytes(rng.choice([content[: rng.randrange(len(content))], b"\xff" + content, b"[]", b"null"]))
    return "manifest.json is not"


def alter_digest(lab: Lab, stage: str, rng: random.Random) -> str:
    """One digit of the digest in the run's tag."""
    digest = manifest_digest(lab.content[stage])
    place = rng.randrange(len(digest))
    lab.tag(stage, "cache.manifest", digest[:place] + f"{(int(digest[place], 16) + 1) % 16:x}" + digest[place + 1 :])
    return "the key and the digest in its record do not belong together"


def exchange_keys(lab: Lab, stage: str, rng: random.Random) -> str:
    """Two rows in the database: each entry is whole and says that it is the other's."""
    other = rng.choice([name for name in STAGES if name != stage])
    lab.tag(stage, "cache.key", lab.keys[other].digest)
    lab.tag(other, "cache.key", lab.keys[stage].digest)
    return "the key and the digest in its record do not belong together"


def lose_tag(lab: Lab, stage: str, rng: random.Random) -> str:
    name = rng.choice(["cache.manifest", "stage"])
    lab.sql("delete from tags where run_uuid = ? and key = ?", lab.runs[stage], name)
    return f"its record lacks {name}"


def move_artifacts(lab: Lab, stage: str, rng: random.Random) -> str:
    """The row says that its files are where another run's are."""
    other = rng.choice([name for name in STAGES if name != stage])
    lab.sql("update runs set artifact_uri = ? where run_uuid = ?", lab.output(other).parent.as_uri(), lab.runs[stage])
    return "manifest.json is not the one that was recorded"


def unfinish(lab: Lab, stage: str, rng: random.Random) -> str:
    """A run that failed or was killed is no entry, whatever its tags say: nothing of it was used, nothing is told."""
    lab.sql("update runs set status = ? where run_uuid = ?", rng.choice(["FAILED", "KILLED"]), lab.runs[stage])
    return ""


def lose_row(lab: Lab, stage: str, rng: random.Random) -> str:
    lab.sql("delete from runs where run_uuid = ?", lab.runs[stage])
    return ""


def promote(lab: Lab, stage: str, rng: random.Random) -> str:
    """A run that never had an output becomes a complete one in the database; the sound one is lost."""
    lose_row(lab, stage, rng)
    run = lab.store.open_run(f"{stage} of all", key=lab.keys[stage])
    lab.sql("update runs set status = 'FINISHED' where run_uuid = ?", run)
    lab.sql("update tags set value = '1' where run_uuid = ? and key = 'cache.complete'", run)
    return "its record lacks cache.manifest"


KINDS: tuple[Callable[[Lab, str, random.Random], str], ...] = (
    truncate, flip, delete, delete_folder, swap_files, swap_folders, lie, spoil_manifest, alter_digest, exchange_keys,
    lose_tag, move_artifacts, unfinish, lose_row, promote,
)  # fmt: skip


@pytest.mark.parametrize(
    "draw", [*range(DRAWS), *(pytest.param(i, marks=pytest.mark.faults) for i in range(DRAWS, DRAWS + MORE))]
)
def test_what_is_damaged_is_named_and_never_served(lab: Lab, draw: int) -> None:
    rng = random.Random(f"damage {draw}")
    kind, stage = KINDS[draw % len(KINDS)], rng.choice(STAGES)
    said = kind(lab, stage, rng)

    assert lab.find(stage) is None
    assert [event.kind for event in lab.told] == (["damaged"] if said else [])
    if kind is not exchange_keys:  # there it is the other one's run that is found and named
        assert all(event.name == f"{stage} of all" for event in lab.told)
    assert all(said in event.note for event in lab.told)

    for other in STAGES:  # whoever else was touched is found sound, or not at all
        found = lab.find(other)
        assert found is None or build_manifest(lab.store.local(found.ref)) == lab.content[other]
    again = lab.put(stage)
    assert build_manifest(lab.store.local(again.ref)) == lab.content[stage]
    assert lab.find(stage) == again


def test_damage_while_a_process_lives_is_found_as_well(lab: Lab) -> None:
    """An artifact that this process verified an hour ago, and somebody wrote to since, whatever its dates say."""
    found = lab.find("train")
    weights = lab.store.local(found.ref) / "adapter" / "adapter_model.safetensors"
    dates = weights.stat().st_atime_ns, weights.stat().st_mtime_ns
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=dates)
    with pytest.raises(Damaged) as caught:
        lab.store.local(found.ref)
    assert str(caught.value) == (
        f"train of MLflow run {found.ref.run_id}: adapter/adapter_model.safetensors does not have its recorded digest; "
        "run its study again, which makes it anew"
    )


def test_what_a_killed_computation_left_in_staging_is_not_read(lab: Lab) -> None:
    lab.store.client.delete_run(lab.runs["train"])
    left = lab.store.root / "staging" / lab.keys["train"].digest
    (left / "output" / "adapter").mkdir(parents=True)
    (left / "output" / "adapter" / "more.safetensors").write_bytes(b"half")
    again = lab.put("train")
    assert build_manifest(lab.store.local(again.ref)) == lab.content["train"]
    assert not left.exists()


def test_damage_is_listed_with_its_stage_once() -> None:
    with at_work("train sft") as found:
        damaged("its record lacks stage")
        damaged("its record lacks stage")
        damaged("rows.parquet is missing", "evaluate sft")
    assert found == ["train sft: its record lacks stage", "evaluate sft: rows.parquet is missing"]


def test_the_terminal_and_the_report_say_what_was_damaged() -> None:
    said = io.StringIO()
    with StudyDisplay(Console(file=said, width=200)) as display, listening(display), at_work("train sft"):
        damaged("rows.parquet [1] is missing (MLflow run 0f); not used")
    assert said.getvalue() == "  damaged train sft: rows.parquet [1] is missing (MLflow run 0f); not used\n"
    ref = ArtifactRef("u", "s", "train", "r")
    results = [StageResult("train", str(i), ref, 1.0, damage=(f"train {i}: lost",) * (i < 7)) for i in range(9)]
    spelt = "; ".join(f"train {i}: lost" for i in range(5))
    assert damage_notes(results) == [f"Found damaged, not used, and made anew: {spelt} and 2 more."]
    assert damage_notes(results[7:]) == []
