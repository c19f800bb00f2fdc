"""The record and the cache, on real MLflow over SQLite: what is a hit, what a killed or damaged run leaves behind."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tasks.core.digests import Damaged, build_manifest
from tasks.core.errors import InputError, StageError
from tasks.core.events import Event, listening
from tasks.core.results import ArtifactRef
from tasks.storage import outbox
from tasks.storage.store import STUDIES, Entry, StageKey, Store, open_store

pytestmark = pytest.mark.slow  # an MLflow database, and processes that are killed

ROOT = Path(__file__).parents[3]


POINTS = ["compute", "log_artifacts", "log_text", "stage.seconds", "cache.manifest", "cache.complete", "set_terminated"]

CHILDREN = """
import os, signal, sys, time
from tasks.core import home
from tasks.storage.store import StageKey, Store

def at_once(work, *arguments):
    children = []
    for argument in arguments:
        if not (child := os.fork()):
            work(argument)
            sys.stdout.flush()
            os._exit(0)
        children.append(child)
    print(work.__name__, *[os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children], flush=True)

def opened(_):
    print("experiments", *Store().experiments.items())

def killed(point):
    store, key = Store(), StageKey("killed", 1, {}, {"at": point})

    def die_at(name, call):
        def wrapped(*arguments, **options):
            if point in (name, *arguments[1:2]):
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)
        return wrapped

    for name in ("log_artifacts", "log_text", "set_tag", "set_terminated"):
        setattr(store.client, name, die_at(name, getattr(store.client, name)))
    compute = die_at("compute", lambda out: {"n": (out / "x").write_text("x" * 99)})
    with store.locked(key):
        store.produce(key, store.open_run("a stage", key=key), compute)
    print("survived", point)

def raced(_):
    store, key = Store(), StageKey("race", 1, {}, {})

    def compute(out):
        time.sleep(0.5)
        return {"n": (out / "x").write_text("x")}

    with store.locked(key):
        entry = store.find(key)
        said = "hit" if entry else "computed"
        entry = entry or store.produce(key, store.open_run("a stage", key=key), compute)
    print(said, entry.ref.sha256, entry.ref.run_id)

home.quiet_environment()
import mlflow.tracking  # the slow import, once for all of them
at_once(opened, 1, 2)
at_once(killed, *POINTS)
at_once(raced, 1, 2)
"""


def start(program: str) -> subprocess.Popen[str]:
    """A real process in the current state folder."""
    return subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@dataclass(frozen=True)
class State:
    """One state folder for the module, because a fresh MLflow database costs seconds, and what made it said."""

    folder: Path
    said: list[str]

    def starting(self, *words: str) -> list[str]:
        return [line for line in self.said if line.split()[0] in words]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[State]:
    folder = tmp_path_factory.mktemp("state with spaces")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLINEAR_HOME", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        process = start(f"POINTS = {POINTS}\n{CHILDREN}")
        said, complaint = process.communicate(timeout=300)
        assert process.returncode == 0, complaint
        yield State(folder, said.splitlines())


@pytest.fixture
def store(home: State) -> Store:
    """A store that has verified nothing yet, as in a new process."""
    return Store()


@pytest.fixture
def key(request: pytest.FixtureRequest) -> StageKey:
    return StageKey("stage", 1, {"input": "0" * 64}, {"test": request.node.name})


def output(folder: Path) -> dict[str, Any]:
    """A small stage: two files, one in a folder of its own."""
    (folder / "adapter").mkdir()
    (folder / "adapter" / "weights.bin").write_bytes(bytes(range(256)) * 40)
    (folder / "rows.txt").write_text("one\ntwo\n")
    return {"rows": 2, "nested": {"a": [1]}, "nothing": None}


def put(store: Store, key: StageKey, compute: Callable[[Path], Any] = output) -> Entry:
    with store.locked(key):
        return store.produce(key, store.open_run("a stage", key=key), compute)


def staged(home: State, key: StageKey) -> list[Path]:
    """What is left of computing ``key``."""
    return list((home.folder / "staging").glob(f"*{key.digest[:16]}*"))


def tags(store: Store, run_id: str) -> dict[str, str]:
    return dict(store.client.get_run(run_id).data.tags)


def status(store: Store, run_id: str) -> str:
    return str(store.client.get_run(run_id).info.status)


# --- keys ------------------------------------------------------------------------------------------------------------


def test_a_key_is_the_digest_of_canonical_json() -> None:
    text = '{"inputs":{"a":"1","b":"2"},"settings":{"k":[1,2],"x":null},"stage":"s","version":3}'
    expected = hashlib.sha256(text.encode()).hexdigest()
    assert StageKey("s", 3, {"b": "2", "a": "1"}, {"x": None, "k": (1, 2)}).digest == expected


def test_every_part_of_a_key_counts() -> None:
    keys = [
        StageKey("s", 1, {"a": "1"}, {"k": 1}),
        StageKey("t", 1, {"a": "1"}, {"k": 1}),
        StageKey("s", 2, {"a": "1"}, {"k": 1}),
        StageKey("s", 1, {"a": "2"}, {"k": 1}),
        StageKey("s", 1, {"b": "1"}, {"k": 1}),
        StageKey("s", 1, {"a": "1"}, {"k": 2}),
        StageKey("s", 1, {"a": "1"}, {"k": "1"}),
        StageKey("s", 1, {"a": "1", "k": "1"}, {}),
        StageKey("s", 1, {"a": "1"}, {"k": 1, "l": None}),
    ]
    assert len({key.digest for key in keys}) == len(keys)


# --- a sound entry ---------------------------------------------------------------------------------------------------


def test_what_is_produced_is_found(store: Store, key: StageKey, home: State) -> None:
    assert store.find(key) is None
    made = put(store, key)
    found = Store().find(key)
    assert found == made
    assert found is not None
    assert found.summary == {"rows": 2, "nested": {"a": [1]}, "nothing": None}
    assert found.ref.kind == "stage"
    folder = Store().local(found.ref)
    assert (folder / "adapter" / "weights.bin").read_bytes() == bytes(range(256)) * 40
    assert sorted(build_manifest(folder)) == ["adapter/weights.bin", "rows.txt", "summary.json"]
    assert status(store, found.ref.run_id) == "FINISHED"
    assert staged(home, key) == []


def test_another_key_is_not_found(store: Store, key: StageKey) -> None:
    put(store, key)
    assert store.find(StageKey(key.stage, key.version + 1, key.inputs, key.settings)) is None


def test_equal_output_has_equal_digests_whatever_the_run(store: Store, key: StageKey) -> None:
    first, second = put(store, key), put(store, key)
    assert first.ref.sha256 == second.ref.sha256
    assert first.ref.run_id != second.ref.run_id


# --- what is never a hit ---------------------------------------------------------------------------------------------


def test_a_run_that_was_never_completed_is_no_hit(store: Store, key: StageKey) -> None:
    run = store.open_run("a stage", key=key)
    assert store.find(key) is None
    store.end_run(run)  # FINISHED, but it never had an output
    assert store.find(key) is None


@pytest.mark.parametrize("ending", ["FAILED", "KILLED", "RUNNING"])
def test_a_complete_run_that_did_not_finish_is_no_hit(store: Store, key: StageKey, ending: str) -> None:
    made = put(store, key)
    store.client.update_run(made.ref.run_id, status=ending)
    assert store.find(key) is None


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
def test_what_raises_leaves_a_failed_run(store: Store, key: StageKey, home: State, error: BaseException) -> None:
    def compute(folder: Path) -> dict[str, Any]:
        (folder / "half.txt").write_text("half")
        raise error

    run = store.open_run("a stage", key=key)
    with pytest.raises(type(error)):
        store.produce(key, run, compute)
    assert status(store, run) == "FAILED"
    assert tags(store, run)["error"].startswith(type(error).__name__)
    assert store.find(key) is None
    assert store.client.list_artifacts(run) == []
    assert staged(home, key) == []


def test_an_upload_that_fails_leaves_a_failed_run_and_its_own_message(store: Store, key: StageKey) -> None:
    run = store.open_run("a stage", key=key)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store.client, "log_artifacts", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            store.produce(key, run, output)
        patch.setattr(store.client, "set_tag", lambda *_: (_ for _ in ()).throw(OSError("server gone")))
        with pytest.raises(OSError, match="disk full"):
            store.produce(key, run, output)
    assert status(store, run) == "FAILED"
    assert store.find(key) is None
    made = store.recover(key)  # what was computed before the upload failed
    assert made is not None
    assert (made.ref.run_id, made.summary["rows"]) == (run, 2)
    assert "error" not in tags(store, run)
    assert Store().find(key) == made
    assert store.recover(key) is None


def test_a_process_killed_at_any_point_leaves_no_hit_and_nothing_to_compute_again(store: Store, home: State) -> None:
    assert home.starting("killed", "survived") == ["killed" + f" {-signal.SIGKILL}" * len(POINTS)]
    for point in POINTS:
        key = StageKey("killed", 1, {}, {"at": point})
        (left,) = store._runs(f"tags.`cache.key` = '{key.digest}'")
        assert left.info.status == "RUNNING"
        assert store.find(key) is None
        assert len(staged(home, key)) == (point == "compute")
        with store.locked(key):  # the dead process has it no more
            made = store.recover(key)
        if point == "compute":
            assert made is None
            made = put(store, key)
            assert status(store, left.info.run_id) == "KILLED"
        assert made is not None
        assert (made.ref.run_id == left.info.run_id) == (point != "compute")
        assert Store().find(key) == made
        assert staged(home, key) == list((home.folder / "outbox").glob(f"{key.digest}*")) == []


def test_an_output_whose_run_is_gone_is_sent_to_a_new_one(store: Store, key: StageKey) -> None:
    run = store.open_run("a stage", key=key)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store.client, "log_artifacts", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            store.produce(key, run, output, rows=lambda _: [("loss", 0.5, 3, 1_700_000_000_000)])
    store.client.delete_run(run)
    made = store.recover(key)
    assert made is not None
    assert made.ref.run_id != run
    (point,) = store.client.get_metric_history(made.ref.run_id, "loss")
    assert (point.value, point.step, point.timestamp) == (0.5, 3, 1_700_000_000_000)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("output/rows.txt", lambda content: content[:-1], "rows.txt does not have its recorded digest"),
        ("note.json", lambda content: content.replace(b'"seconds": ', b'"seconds": 1'), "note.json does not have"),
        ("note.json", lambda content: content[:40], "computed again"),
        ("note.json", lambda _: b"[]", "computed again"),
    ],
)
def test_a_damaged_output_is_never_sent(store: Store, key: StageKey, name: str, change: Any, message: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store.client, "log_artifacts", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            put(store, key)
    rewrite(outbox.folder(key) / name, change)
    heard: list[Event] = []
    with listening(heard.append):
        assert store.recover(key) is None
    assert [(event.kind, message in event.note) for event in heard] == [("damaged", True)]
    assert not outbox.folder(key).exists()


# --- damage ----------------------------------------------------------------------------------------------------------


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def flip(content: bytes) -> bytes:
    return content[:100] + bytes([content[100] ^ 4]) + content[101:]


def lie(folder: Path) -> None:
    """Change a file and make the manifest say so: only the digest recorded in the run can tell."""
    rewrite(folder / "rows.txt", lambda _: b"two\none\n")
    (folder.parent / "manifest.json").write_text(json.dumps(build_manifest(folder)))


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "flipped bit": (lambda out: rewrite(out / "adapter" / "weights.bin", flip), "adapter/weights.bin does not have"),
    "truncated": (lambda out: rewrite(out / "rows.txt", lambda content: content[:-1]), "rows.txt does not have"),
    "deleted file": (lambda out: (out / "rows.txt").unlink(), "rows.txt is missing"),
    "deleted folder": (lambda out: shutil.rmtree(out), "is missing"),
    "added file": (lambda out: (out / "new.txt").write_text("x"), "new.txt was not there"),
    "changed summary": (lambda out: (out / "summary.json").write_text("{}"), "summary.json does not have"),
    "lying manifest": (lie, "manifest.json is not the one that was recorded"),
    "no manifest": (lambda out: (out.parent / "manifest.json").unlink(), "manifest.json is missing"),
    "manifest of bytes": (lambda out: rewrite(out.parent / "manifest.json", lambda _: b"\xff\xfe{"), "is not JSON"),
    "half a manifest": (lambda out: rewrite(out.parent / "manifest.json", lambda text: text[:50]), "is not JSON"),
    "manifest of a list": (lambda out: rewrite(out.parent / "manifest.json", lambda _: b"[1]"), "is not the one"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_named_and_computed_again(store: Store, key: StageKey, damage: str) -> None:
    change, message = DAMAGES[damage]
    made = put(store, key)
    change(store.local(made.ref))

    fresh = Store()
    with pytest.raises(Damaged, match=message):
        fresh.local(made.ref)
    assert fresh.find(key) is None
    left = tags(store, made.ref.run_id)
    assert left["cache.complete"] == "0"
    assert message in left["cache.damaged"]

    again = put(fresh, key)
    assert again.ref.sha256 == made.ref.sha256
    assert Store().find(key) == again


def test_an_older_sound_entry_is_used_when_the_newest_is_damaged(store: Store, key: StageKey) -> None:
    old = put(store, key)
    new = put(store, key, lambda folder: {"n": (folder / "rows.txt").write_text("other")})
    assert Store().find(key) == new
    (store.local(new.ref) / "rows.txt").write_text("damaged")
    assert Store().find(key) == old


def test_a_reference_with_another_digest_is_not_served(store: Store, key: StageKey) -> None:
    made = put(store, key)
    wrong = ArtifactRef(made.ref.uri, "0" * 64, made.ref.kind, made.ref.run_id)
    with pytest.raises(Damaged, match="not the one that was recorded"):
        store.local(wrong)


def test_a_folder_outside_the_store_is_taken_as_it_is(store: Store, tmp_path: Path) -> None:
    assert store.local(ArtifactRef(str(tmp_path), "any", "external-model", "")) == tmp_path


# --- two at once -----------------------------------------------------------------------------------------------------


def test_two_processes_make_a_fresh_store_at_once(home: State) -> None:
    assert home.starting("opened") == ["opened 0 0"]
    first, second = home.starting("experiments")
    assert first == second  # one pair of experiments, seen by both


def test_two_processes_compute_a_key_once(home: State) -> None:
    assert home.starting("raced") == ["raced 0 0"]
    (first, *reference), (second, *same) = sorted(line.split() for line in home.starting("computed", "hit"))
    assert (first, second) == ("computed", "hit")
    assert reference == same


def test_threads_compute_a_key_once(store: Store, key: StageKey) -> None:
    computed: list[str] = []

    def compute(folder: Path) -> dict[str, Any]:
        computed.append(threading.current_thread().name)
        return output(folder)

    def work() -> None:
        with store.locked(key):
            if store.find(key) is None:
                store.produce(key, store.open_run("a stage", key=key), compute)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(computed) == 1


# --- runs that people browse -----------------------------------------------------------------------------------------


def test_many_threads_ask_at_once_and_all_are_answered(store: Store) -> None:
    """As a study does whose pairs all begin: MLflow's pool has 15 connections, and opening a run takes two."""
    opened: list[str] = []
    threads = [threading.Thread(target=lambda: opened.append(store.open_run("one of many"))) for _ in range(60)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(opened)) == 60
    assert time.monotonic() - began < 25  # a call that waits for a connection gives up after 30 s


def test_forgotten_runs_of_a_key_are_closed_but_not_those_of_another_place(store: Store, key: StageKey) -> None:
    forgotten = store.open_run("a stage", key=key)
    elsewhere = [
        store.open_run("a stage", key=key, tags={"host": "another machine"}),
        store.open_run("a stage", key=key, tags={"home": "/another/state/folder"}),
    ]
    other_key = store.open_run("a stage", key=StageKey("other", 1, key.inputs, key.settings))
    assert status(store, forgotten) == "KILLED"  # by those after it
    newest = store.open_run("a stage", key=key)
    assert [status(store, run) for run in (*elsewhere, other_key, newest)] == ["RUNNING"] * 4
    assert tags(store, newest)["host"] == socket.gethostname()


STUDY = """
import sys
from tasks.storage.store import Store
store = Store()
print(store.open_study("child", {"study": "x"}, {}), flush=True)
sys.stdin.readline()
"""


def test_opening_a_study_closes_dead_ones_and_leaves_the_living(store: Store) -> None:
    child = start(STUDY)
    assert child.stdout is not None
    other = child.stdout.readline().strip()
    mine = store.open_study("first", {}, {})
    theirs, ours = (store.open_run("a hit", parent=study, experiment=STUDIES) for study in (other, mine))
    assert [status(store, run) for run in (other, mine)] == ["RUNNING", "RUNNING"]

    child.kill()
    child.communicate()
    closed: list[str] = []
    second = store.open_study("second", {}, {}, closed=lambda tags: closed.append(tags["study"]))
    assert [status(store, run) for run in (other, mine, second)] == ["KILLED", "RUNNING", "RUNNING"]
    assert [status(store, run) for run in (theirs, ours)] == ["KILLED", "RUNNING"]
    assert closed == ["x"]

    # Two live in this process: ending one must not make the other look dead.
    store.end_study(mine, "FINISHED")
    other_store = Store()
    third = other_store.open_study("third", {}, {})
    assert [status(store, run) for run in (mine, second, third)] == ["FINISHED", "RUNNING", "RUNNING"]
    other_store.end_study(third, "FINISHED")
    store.end_study(second, "FAILED")
    assert status(store, second) == "FAILED"


def test_hundreds_of_params_and_thousands_of_metrics(store: Store) -> None:
    params = {f"section.key{i}": i for i in range(250)}
    run = store.open_run("many", experiment=STUDIES, params={**params, "long": "x" * 7000})
    store.log_metrics(run, [("loss", float(step), step) for step in range(1500)])
    logged = store.client.get_run(run).data.params
    assert {name: logged[name] for name in params} == {name: str(value) for name, value in params.items()}
    assert logged["long"] == "x" * 6000
    history = store.client.get_metric_history(run, "loss")
    assert [(point.step, point.value) for point in history] == [(step, float(step)) for step in range(1500)]
    store.end_run(run)


def test_all_children_of_a_study_are_listed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.storage.store.PAGE", 10)
    parent = store.open_run("parent", experiment=STUDIES)
    children = {store.open_run(f"child {i}", parent=parent, experiment=STUDIES) for i in range(25)}
    assert {run.info.run_id for run in store._runs(f"tags.`mlflow.parentRunId` = '{parent}'")} == children
    assert tags(store, min(children))["mlflow.parentRunId"] == parent


def test_files_become_the_runs_artifacts_and_nothing_else_does(store: Store, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<html>")
    run = store.open_run("study", experiment=STUDIES)
    (tmp_path / "private.txt").write_text("not ours")
    store.log_files(run, [tmp_path / "report.html"])
    assert [item.path for item in store.client.list_artifacts(run)] == ["report.html"]


# --- opening ---------------------------------------------------------------------------------------------------------


def test_one_store_a_process_and_state_folder(home: State) -> None:
    assert open_store() is open_store()
    assert open_store().uri == f"sqlite:///{home.folder / 'mlflow.db'}"


def test_a_store_that_cannot_be_opened_is_a_stage_error(home: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://store")
    with pytest.raises(StageError, match=r"^MLflow: cannot open nonsense://store: "):
        open_store()


def test_a_server_that_is_not_there_is_said_at_once(home: State, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refuses
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        began = time.monotonic()
        said = rf"^MLFLOW_TRACKING_URI: no MLflow server answers at {uri} \(connection refused\); start it"
        with pytest.raises(InputError, match=said):
            open_store()
    assert time.monotonic() - began < 15
