"""Whole studies whose servers go away, stay away, refuse or fail: the numbers are those of a quiet one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tasks.storage.store import Store
from tests.faults.proxy import Proxy, proxied
from tests.faults.servers import (
    METHODS,
    PASSWORD,
    STEPS,
    adapters,
    ask,
    leaks,
    prefect_running,
    record,
    small_study,
    studying,
    trains,
)
from tests.lab.mlflow_server import running

pytestmark = pytest.mark.faults

AWAY = 60.0


@dataclass(frozen=True)
class Lab:
    """Real servers, the proxies before them, and what an undisturbed study gave."""

    folder: Path
    mlflow: Proxy
    prefect: Proxy
    prefect_uri: str
    words: list[str]
    expected: dict[str, str]

    def environment(self, **more: str) -> dict[str, str]:
        """What a study is told of the servers, with a password that none of them asks for."""
        return {
            "MLFLOW_TRACKING_URI": self.mlflow.uri.replace("http://", f"http://me:{PASSWORD}@"),
            "PREFECT_API_URL": self.prefect.uri.replace("http://", f"http://me:{PASSWORD}@") + "/api",
            **more,
        }

    def store(self, monkeypatch: pytest.MonkeyPatch, home: Path) -> Store:
        """The record, as this process sees it from another place."""
        monkeypatch.setenv("COLINEAR_HOME", str(home / "reader"))
        return Store(f"http://{self.mlflow.host}:{self.mlflow.port}")


@pytest.fixture(scope="module")
def words(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return small_study(base_model, tmp_path_factory.mktemp("rollouts"))


@pytest.fixture(scope="module")
def undisturbed(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """{training: digest} of a study on embedded servers."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with studying(folder / "home", folder / "out", words) as run:
        assert run.end() == 0, "\n".join(run.lines)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLINEAR_HOME", str(folder / "home"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return adapters(Store(), folder / "out")


@pytest.fixture
def lab(tmp_path: Path, words: list[str], undisturbed: dict[str, str]) -> Iterator[Lab]:
    with ExitStack() as stack:
        mlflow = stack.enter_context(running(tmp_path))
        prefect_uri = stack.enter_context(prefect_running(tmp_path))
        proxies = [stack.enter_context(proxied(uri, seed=3)) for uri in (mlflow.uri, prefect_uri)]
        yield Lab(tmp_path, proxies[0], proxies[1], prefect_uri, words, undisturbed)


def check_whole(lab: Lab, store: Store, out: Path) -> None:
    """The numbers of a quiet study, each stage's output once, every record there."""
    assert adapters(store, out) == lab.expected
    runs = store._runs("tags.`cache.key` != ''")
    done = [run.data.tags["cache.key"] for run in runs if run.data.tags["cache.complete"] == "1"]
    assert len(set(done)) == len(done)
    mlflow = record(out)["mlflow"]
    parent = store.client.get_run(mlflow["study"])
    assert parent.info.status == "FINISHED"
    assert {file.path for file in store.client.list_artifacts(mlflow["study"])} >= {"report.html", "study.json"}
    children = store._runs(f"tags.`mlflow.parentRunId` = '{mlflow['study']}'")
    assert sorted(run.data.tags["run"] for run in children) == sorted(METHODS)
    for run in children:
        assert run.info.status == "FINISHED"
        history = store.client.get_metric_history(run.info.run_id, "loss")
        assert sorted(point.step for point in history) == list(range(1, STEPS + 1))


def finished(home: Path) -> bool:
    """Whether all trainings have ended, with their output on its way."""
    return len(list((home / "outbox").glob("*/output/adapter"))) == len(METHODS)


def states(lab: Lab) -> tuple[set[str], list[str]]:
    """Prefect's (states of task runs, states of flow runs)."""
    tasks = ask(lab.prefect_uri, "/task_runs/filter", {"limit": 200})
    flows = ask(lab.prefect_uri, "/flow_runs/filter", {})
    return {run["state_type"] for run in tasks}, [run["state_type"] for run in flows]


def test_both_go_away_in_the_middle_of_training_and_come_back(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    with studying(home, out, lab.words, **lab.environment()) as run:
        run.wait_for(lambda: trains(home, 3))
        lab.mlflow.down()
        lab.prefect.down()
        began = time.time()
        run.wait_for(lambda: finished(home) and run.named("waiting") and time.time() > began + AWAY)
        ended = time.time()
        lab.prefect.up()
        lab.mlflow.up()
        assert run.end() == 0, "\n".join(run.lines)
    store = lab.store(monkeypatch, home)
    check_whole(lab, store, out)
    for child in store._runs(f"tags.`mlflow.parentRunId` = '{record(out)['mlflow']['study']}'"):
        times = [point.timestamp / 1000 for point in store.client.get_metric_history(child.info.run_id, "loss")]
        assert sum(began + 2 < when < ended for when in times) > 50  # it trained while nobody was there to hear

    (waited,), (back,) = run.named("waiting"), run.named("back")
    said = "does not answer (connection refused; tried for 60 min); nothing is lost"
    assert waited == f"MLflow at {lab.mlflow.uri} {said}"
    assert back.startswith(f"MLflow at {lab.mlflow.uri}  after ")
    assert states(lab) == ({"COMPLETED"}, ["COMPLETED"])
    assert not leaks(tmp_path)


def test_mlflow_stays_away_and_the_next_start_computes_nothing_again(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    with studying(home, out, lab.words, **lab.environment(COLINEAR_SERVER_PATIENCE="20")) as run:
        run.wait_for(lambda: trains(home, 3))
        lab.mlflow.down()
        assert run.end(300) == 1
    lines = [line for line in run.lines if line.startswith("colinear: ")]
    assert lines[0].startswith("colinear: train ")
    assert f"MLflow at {lab.mlflow.uri} does not answer for " in lines[0]
    assert "(connection refused); what was computed is kept, the same command delivers it" in lines[0]
    assert len(lines) == 2
    assert finished(home)

    lab.mlflow.up()
    with studying(home, out, lab.words, **lab.environment()) as again:
        assert again.end() == 0, "\n".join(again.lines)
    assert {name for name in again.named("done") if name.startswith("train")} == set()
    assert not list((home / "outbox").iterdir())
    check_whole(lab, lab.store(monkeypatch, home), out)
    assert not leaks(tmp_path)


def test_an_artifact_store_that_refuses_ends_the_study_and_gets_all_later(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    lab.mlflow.refuse = lambda method, path: (
        403 if method == "PUT" and path.endswith("adapter_model.safetensors") else None
    )
    with studying(home, out, lab.words, **lab.environment()) as run:
        assert run.end() == 1
    (line, _) = [line for line in run.lines if line.startswith("colinear: ")]
    assert "refused an upload: 403 Client Error: Forbidden" in line
    assert line.endswith("what was computed is kept, the same command delivers it")
    lab.mlflow.refuse = lambda method, path: None
    with studying(home, out, lab.words, **lab.environment()) as again:
        assert again.end() == 0, "\n".join(again.lines)
    assert {name for name in again.named("done") if name.startswith("train")} == set()
    check_whole(lab, lab.store(monkeypatch, home), out)
    assert not leaks(tmp_path)


def test_servers_that_fail_now_and_then_are_only_slow(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    lab.mlflow.fail, lab.mlflow.cut, lab.mlflow.delay = 0.1, 0.03, (0.0, 0.2)
    with studying(home, out, lab.words, **lab.environment()) as run:
        run.wait_for(lambda: run.named("done"))
        lab.prefect.fail, lab.prefect.cut = 0.1, 0.03
        assert run.end() == 0, "\n".join(run.lines)
    for proxy in (lab.mlflow, lab.prefect):
        assert proxy.done["500"] + proxy.done["503"] >= 3
    assert lab.mlflow.done["cut"] >= 3
    check_whole(lab, lab.store(monkeypatch, home), out)
    lab.prefect.fail = lab.prefect.cut = 0.0
    assert states(lab) == ({"COMPLETED"}, ["COMPLETED"])


def test_prefect_stays_away_and_the_line_says_so(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    settings = lab.environment(COLINEAR_SERVER_PATIENCE="20", PREFECT_CLIENT_MAX_RETRIES="2")
    with studying(home, out, lab.words, **settings) as run:
        run.wait_for(lambda: trains(home, 3))
        lab.prefect.down()
        assert run.end(400) == 1
    lines = [line for line in run.lines if line.startswith("colinear: ")]
    assert lines[0].startswith(f"colinear: Prefect at {lab.prefect.uri}/api does not answer")
    assert len(lines) == 2
    assert (out / "report.html").is_file()
    lab.prefect.up()
    with studying(home, out, lab.words, **lab.environment()) as again:
        assert again.end() == 0, "\n".join(again.lines)
    assert again.named("done") == ["report"] or {line.split("  ")[0] for line in again.named("done")} == {"report"}
    check_whole(lab, lab.store(monkeypatch, home), out)
    assert not leaks(tmp_path)
