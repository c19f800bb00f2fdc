"""The store on a real MLflow server that goes away, fails, loses answers, refuses or is slow: nothing is lost."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tasks.core.digests import StageKey
from tasks.core.errors import StageError
from tasks.core.events import Event, listening
from tasks.storage import outbox, patience
from tasks.storage.store import Entry, Store, open_store
from tasks.training.live import LiveMetrics
from tests.faults.proxy import Proxy, proxied, silent
from tests.lab.mlflow_server import Server

ROWS = [("loss", 1.0 / step, step, 1_700_000_000_000 + step) for step in range(1, 8)]


@pytest.fixture
def proxy(server: Server, state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Between this process, with a fresh state folder, and the session's server."""
    monkeypatch.setattr(patience, "PAUSES", (0.1, 0.2))
    monkeypatch.setattr(patience, "TELL_SECONDS", 0.5)
    monkeypatch.setattr(patience, "ILL_SECONDS", 30.0)
    with proxied(server.uri, seed=7) as one:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", one.uri)
        yield one


@pytest.fixture
def key(tmp_path: Path) -> StageKey:
    return StageKey("stage", 1, {}, {"test": str(tmp_path)})


def output(folder: Path) -> dict[str, Any]:
    (folder / "adapter").mkdir()
    (folder / "adapter" / "weights.bin").write_bytes(bytes(range(256)) * 40)
    return {"n": 1}


def never(folder: Path) -> dict[str, Any]:
    pytest.fail("computed again")


def put(store: Store, key: StageKey, compute: Any = output) -> Entry:
    run = store.open_run("a stage", key=key)
    return store.produce(key, run, compute, rows=lambda _: ROWS)


def history(store: Store, run_id: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in store.client.get_metric_history(run_id, "loss")]


EXPECTED = [(step, value) for _, value, step, _ in ROWS]


def test_a_stage_that_ends_while_the_server_is_away_waits_and_is_delivered(proxy: Proxy, key: StageKey) -> None:
    def compute(folder: Path) -> dict[str, Any]:
        proxy.down()
        threading.Timer(2.0, proxy.up).start()
        return output(folder)

    heard: list[Event] = []
    with listening(heard.append):
        made = put(Store(), key, compute)
    assert [event.kind for event in heard] == ["away", "back"]
    other = Store()
    assert other.find(key) == made
    assert history(other, made.ref.run_id) == EXPECTED


def test_a_server_that_stays_away_costs_a_start_and_no_work(
    proxy: Proxy, key: StageKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compute(folder: Path) -> dict[str, Any]:
        proxy.down()
        return output(folder)

    monkeypatch.setenv("COLINEAR_SERVER_PATIENCE", "1")
    message = rf"^MLflow at {proxy.uri} does not answer for \d s \(connection refused\); what was computed is kept, the"
    began = time.monotonic()
    with pytest.raises(StageError, match=message):
        put(Store(), key, compute)
    assert time.monotonic() - began < 10

    proxy.up()
    later = Store()
    assert later.find(key) is None
    made = later.recover(key)
    assert made is not None
    assert later.find(key) == made
    assert history(later, made.ref.run_id) == EXPECTED
    assert not outbox.folder(key).exists()
    assert [run.info.status for run in later._runs(f"tags.`cache.key` = '{key.digest}'")] == ["FINISHED"]


@pytest.mark.parametrize(
    ("status", "said"), [(403, "403 Client Error"), pytest.param(500, "it answers", marks=pytest.mark.faults)]
)
def test_an_artifact_store_that_refuses_is_named_and_the_output_kept(
    proxy: Proxy, key: StageKey, status: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "ILL_SECONDS", 1.0)
    store = Store()
    proxy.refuse = lambda method, path: status if method == "PUT" and "mlflow-artifacts" in path else None
    with pytest.raises(StageError) as refused:
        put(store, key)
    message = str(refused.value)
    assert message.startswith(f"MLflow at {proxy.uri}")
    assert said in message
    assert message.endswith("; what was computed is kept, the same command delivers it")
    (run,) = store._runs(f"tags.`cache.key` = '{key.digest}'")
    assert run.info.status == "FAILED"
    assert run.data.tags["error"].startswith("StageError: MLflow at")

    proxy.refuse = lambda method, path: None
    made = Store().recover(key)
    assert made is not None
    assert made.ref.run_id == run.info.run_id
    assert Store().find(key) == made


@pytest.mark.faults
def test_a_disk_that_is_full_on_the_server_is_its_to_say(
    proxy: Proxy, server: Server, key: StageKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No upload of the real server's can be written: a file stands where the run's folder should be."""
    monkeypatch.setattr(patience, "ILL_SECONDS", 1.0)
    store = Store()
    run = store.open_run("a stage", key=key)
    place = server.artifacts / store.experiments["colinear.cache"] / run
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("in the way")
    with pytest.raises(StageError, match=r"it answers 500 for \d s; its log says why; what was computed is kept"):
        store.produce(key, run, output)
    place.unlink()
    assert Store().recover(key) is not None


def test_answers_that_are_lost_make_nothing_twice(proxy: Proxy, tmp_path: Path) -> None:
    store = Store()
    proxy.cut = 0.3
    keys = [StageKey("stage", 1, {}, {"test": f"{tmp_path} {number}"}) for number in range(4)]
    made = [put(store, key) for key in keys]
    assert proxy.done["cut"] > 10
    proxy.cut = 0.0
    assert [Store().find(key) for key in keys] == made
    for key, entry in zip(keys, made, strict=True):
        assert [run.info.status for run in store._runs(f"tags.`cache.key` = '{key.digest}'")] == ["FINISHED"]
        assert history(store, entry.ref.run_id) == EXPECTED


@pytest.mark.faults
def test_failures_now_and_then_are_healed(proxy: Proxy, tmp_path: Path) -> None:
    proxy.fail = 0.3
    heard: list[Event] = []
    keys = [StageKey("stage", 1, {}, {"test": f"{tmp_path} {number}"}) for number in range(3)]
    with listening(heard.append):
        made = [put(Store(), key) for key in keys]
        assert [Store().find(key) for key in keys] == made
    assert proxy.done["500"] > 5
    assert proxy.done["503"] > 5


@pytest.mark.faults
def test_a_download_that_is_cut_is_no_damage(proxy: Proxy, key: StageKey, monkeypatch: pytest.MonkeyPatch) -> None:
    made = put(Store(), key)
    monkeypatch.setenv("COLINEAR_HOME", f"{outbox.home.home()}-another-machine")
    other = Store()
    proxy.cut = 0.6
    assert other.find(key) == made
    assert proxy.done["cut"] > 2
    assert other.client.get_run(made.ref.run_id).data.tags["cache.complete"] == "1"


@pytest.mark.faults
def test_a_slow_server_is_only_slow(proxy: Proxy, key: StageKey) -> None:
    proxy.delay = (2.0, 5.0)
    heard: list[Event] = []
    with listening(heard.append):
        made = put(Store(), key)
        assert Store().find(key) == made
    assert not heard
    assert proxy.done["requests"] > 15


def log(folder: Path, steps: int) -> Path:
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps({"step": step, "loss": 1.0 / step}) + "\n" for step in range(1, steps + 1)))
    return path


def test_a_training_streams_and_is_never_held_up(
    proxy: Proxy, key: StageKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.training.live.LIVE_SECONDS", 0.0)
    store = open_store()
    run = store.open_run("train", key=key)
    told: list[int] = []
    live = LiveMetrics(run, log(tmp_path, 2), lambda done, total, note: told.append(done))
    live(2, 7)
    live._aside.wait(20)
    assert history(store, run) == EXPECTED[:2]

    proxy.delay = (3.0, 3.0)  # it hears, and does not answer in time
    log(tmp_path, 5)
    began = time.monotonic()
    for step in range(3, 6):
        live(step, 7)
    assert time.monotonic() - began < 1.0
    assert told == [2, 3, 4, 5]
    frame = tmp_path / "training.parquet"
    pl.DataFrame([{"metric": "loss", "value": 1.0 / step, "step": step} for step in range(1, 8)]).write_parquet(frame)
    rest = live.rest(frame)  # while three of them are under way: MLflow may get them twice
    assert [row[2] for row in rest] == [3, 4, 5, 6, 7]
    proxy.delay = (0.0, 0.0)
    store.log_metrics(run, rest)
    live._aside.wait(20)
    assert history(store, run) == EXPECTED


def test_a_silent_server_holds_up_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: Proxy) -> None:
    monkeypatch.setattr("tasks.training.live.LIVE_SECONDS", 0.0)
    store = open_store()
    run = store.open_run("train")
    live = LiveMetrics(run, log(tmp_path, 5), lambda done, total, note: None)
    with silent() as hole, pytest.MonkeyPatch.context() as patch:
        patch.setattr(proxy, "host", hole.removeprefix("http://").partition(":")[0])
        patch.setattr(proxy, "port", int(hole.rpartition(":")[2]))
        began = time.monotonic()
        for step in range(5):
            live(step, 5)
        assert time.monotonic() - began < 1.0
