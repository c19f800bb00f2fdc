"""The store on a real MLflow server: artifacts go through its HTTP proxy, and are checked where they arrive."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.core.digests import Damaged
from tasks.core.errors import StageError
from tasks.models.external import FILES, reference
from tasks.storage.published import publish
from tasks.storage.store import Entry, StageKey, Store
from tests.lab.mlflow_server import Server

pytestmark = pytest.mark.slow  # an MLflow server


def machine(server: Server, home: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store as on a machine whose state folder is ``home``."""
    monkeypatch.setenv("COLINEAR_HOME", str(home))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    return Store()


def output(folder: Path) -> dict[str, Any]:
    (folder / "adapter").mkdir()
    (folder / "adapter" / "weights.bin").write_bytes(bytes(range(256)) * 500)
    return {"n": 1}


def put(store: Store, name: str) -> tuple[StageKey, Entry]:
    key = StageKey("stage", 1, {}, {"test": name})
    with store.locked(key):
        return key, store.produce(key, store.open_run("a stage", key=key), output)


def on_server(server: Server, entry: Entry) -> Path:
    (folder,) = server.artifacts.rglob(f"{entry.ref.run_id}/artifacts")
    return folder


def test_another_machine_finds_and_downloads(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, made = put(machine(server, tmp_path / "one", monkeypatch), "download")
    assert made.ref.uri.startswith("mlflow-artifacts:")
    other = machine(server, tmp_path / "two", monkeypatch)
    assert other.find(key) == made
    folder = other.local(made.ref)
    assert folder.is_relative_to(tmp_path / "two" / "downloads")
    assert (folder / "adapter" / "weights.bin").read_bytes() == bytes(range(256)) * 500

    # What is here is not fetched again, and what was damaged here is: the entry itself is sound.
    again = machine(server, tmp_path / "two", monkeypatch)
    monkeypatch.setattr(again, "_fetch", lambda *_: pytest.fail("fetched again"))
    assert again.local(made.ref) == folder
    (folder / "adapter" / "weights.bin").write_bytes(b"damaged")
    healed = machine(server, tmp_path / "two", monkeypatch)
    assert healed.find(key) == made
    assert (folder / "adapter" / "weights.bin").stat().st_size == 256 * 500
    leftovers = [path.name for path in (tmp_path / "two" / "downloads").glob("partial-*")]
    assert leftovers == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda out: (out / "output" / "adapter" / "weights.bin").write_bytes(b"x"), "weights.bin does not have its"),
        (lambda out: (out / "output" / "adapter" / "weights.bin").unlink(), "weights.bin is missing"),
        (lambda out: (out / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda out: shutil.rmtree(out / "output"), "output is missing"),
        (lambda out: shutil.rmtree(out), "output is missing"),
    ],
)
def test_damage_on_the_server_is_found_and_computed_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Any, message: str
) -> None:
    key, made = put(machine(server, tmp_path / "one", monkeypatch), f"{tmp_path}")
    damage(on_server(server, made))
    other = machine(server, tmp_path / "two", monkeypatch)
    with pytest.raises(Damaged, match=message):
        other.local(made.ref)
    assert other.find(key) is None
    assert message in other.client.get_run(made.ref.run_id).data.tags["cache.damaged"]
    _, again = put(other, f"{tmp_path}")
    assert again.ref.sha256 == made.ref.sha256
    assert machine(server, tmp_path / "three", monkeypatch).find(key) == again


def test_studies_of_two_state_folders_do_not_close_each_other(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = machine(server, tmp_path / "one", monkeypatch)
    study = one.open_study("one", {}, {})
    two = machine(server, tmp_path / "two", monkeypatch)
    two.end_study(two.open_study("two", {}, {}), "FINISHED")
    assert one.client.get_run(study).info.status == "RUNNING"
    one.end_study(study, "FINISHED")


def test_a_folder_of_one_machine_is_published_once_for_all(
    server: Server, base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = machine(server, tmp_path / "one", monkeypatch)
    folder = tmp_path / "base"
    shutil.copytree(base_model, folder)
    (folder / "pytorch_model.bin").write_bytes(b"not among the files that count")
    ref = reference(folder)
    published = publish(one, ref, FILES)
    assert published.sha256 == ref.sha256  # cache keys are those of a study on one machine
    assert publish(one, ref, FILES) == published
    there = machine(server, tmp_path / "two", monkeypatch).local(published)
    assert there.is_relative_to(tmp_path / "two" / "downloads")
    assert {file.name: file.read_bytes() for file in there.iterdir()} == {
        file.name: file.read_bytes() for file in base_model.iterdir()
    }
    (folder / "config.json").write_text("{}")
    with pytest.raises(StageError, match=r"base: its files were changed while the study ran; start it again$"):
        publish(one, replace(ref, sha256="0" * 64), FILES)
