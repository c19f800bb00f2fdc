"""A team's servers end to end: PostgreSQL, both servers on it, a worker; studies are started over Prefect's API."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tasks.storage.store import Store
from tests.lab.living import left_behind, until
from tests.lab.study_runs import Lab, Study
from tests.lab.team_lab import COMMIT, Team, team

pytestmark = [pytest.mark.slow, pytest.mark.long]

NUMBERS = ("accuracy", "mcnemar", "items", "pair_metrics", "spectra", "connectivity", "barriers", "cka", "divergence")
PATIENCE = 2400.0
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@dataclass(frozen=True)
class Ran:
    """A flow run that has ended, and the folder of its report."""

    run: dict[str, Any]
    folder: Path

    @property
    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "study.json").read_text())
        return found

    def names(self, *, hit: bool) -> set[str]:
        return {stage["name"] for stage in self.record["stages"] if stage["hit"] is hit}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    folder = tmp_path_factory.mktemp("team")
    with team(folder) as started:
        yield started
    until(lambda: not left_behind(started.work), 30)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The smoke study by its command, in stores of its own."""
    study = Lab(tmp_path_factory.mktemp("plain") / "home", fresh=True).run("smoke", out="out", timeout=PATIENCE)
    assert study.code == 0, study.stderr
    return study


def start(lab: Team) -> Ran:
    """What the button *Quick run* of Prefect's pages does, and then watching it."""
    before = set((lab.work / "runs").glob("*"))
    deployment = lab.ask("/deployments/name/study/smoke-process")
    run = lab.ask(f"/deployments/{deployment['id']}/create_flow_run", {"state": {"type": "SCHEDULED"}})

    def look() -> Any:
        now = lab.ask(f"/flow_runs/{run['id']}")
        return now if now["state_type"] in ENDED else None

    found = until(look, PATIENCE)
    assert found["state_type"] == "COMPLETED", f"{found['state']}\n{lab.log('worker')}"
    (folder,) = set((lab.work / "runs").glob("*")) - before
    return Ran(found, folder)


@pytest.fixture(scope="module")
def first(lab: Team) -> Ran:
    return start(lab)


def test_prefects_api_and_pages_ask_for_the_password(lab: Team) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401"):
        lab.ask("/flow_runs/filter", {}, auth="team:another")
    assert lab.ask("/flow_runs/count", {}) >= 0


def test_mlflow_asks_for_the_password(lab: Team) -> None:
    for path in ("/", "/version", "/api/2.0/mlflow/experiments/search?max_results=1", ARTIFACTS):
        for auth in (None, "colinear:another-password", "admin:password1234"):
            with pytest.raises(urllib.error.HTTPError, match="401"):
                fetched(lab, path, auth)
        assert fetched(lab, path, f"colinear:{lab.given['MLFLOW_PASSWORD']}")
    assert lab.count("mlflow", "select count(*) from users") == 1


def fetched(lab: Team, path: str, auth: str | None) -> bytes:
    """What MLflow's server answers to ``user:password``. Raises `urllib.error.HTTPError`."""
    headers = {"authorization": f"Basic {base64.b64encode(auth.encode()).decode()}"} if auth else {}
    with urllib.request.urlopen(urllib.request.Request(f"{lab.mlflow}{path}", headers=headers), timeout=60) as reply:
        return bytes(reply.read())


def test_everything_is_deployed_from_the_installed_package(lab: Team) -> None:
    """`prefect.yaml` is that of the package, the folder that of /state; the checkout is not on the path."""
    found = {one["name"]: one for one in lab.ask("/deployments/filter", {})}
    assert {"smoke-process", "tiny-process", "tiny-docker", "paper-kubernetes", "adapters-process"} <= found.keys()
    assert found["smoke-process"]["job_variables"]["working_dir"] == str(lab.work)
    assert lab.ask("/work_pools/colinear-process")["status"] == "READY"  # the worker's heartbeat
    assert "colinear: no heartbeat" in {one["name"] for one in lab.ask("/automations/filter", {})}


def test_a_run_started_over_the_api_has_its_record_on_the_servers(lab: Team, first: Ran) -> None:
    record = first.record
    assert record["mlflow"]["uri"] == lab.mlflow
    assert record["commit"] == COMMIT  # the image's: no checkout computed it
    assert first.run["infrastructure_pid"]
    assert lab.count("prefect", "select count(*) from flow_run where state_type = 'COMPLETED'") >= 1
    assert lab.count("mlflow", "select count(*) from runs where status = 'FINISHED'") >= len(record["stages"])
    beside = {path.name for path in lab.work.rglob("*.db")} & {"prefect.db", "mlflow.db"}
    assert not beside, "a database of its own beside PostgreSQL"


def test_the_report_comes_out_of_mlflow_through_its_proxy(lab: Team, first: Ran) -> None:
    client = Store(lab.store).client
    study = client.get_run(first.record["mlflow"]["study"])
    assert study.info.artifact_uri.startswith("mlflow-artifacts:/")
    path = study.info.artifact_uri.removeprefix("mlflow-artifacts:/")
    for name in ("report.html", "accuracy.parquet"):
        got = fetched(lab, f"{ARTIFACTS}/{path}/{name}", f"colinear:{lab.given['MLFLOW_PASSWORD']}")
        assert got == (first.folder / name).read_bytes()
        assert list(
            (lab.folder / "artifacts").rglob(f"{study.info.run_id}/artifacts/{name}")
        )  # the server's own folder


def test_the_children_have_their_metrics(lab: Team, first: Ran) -> None:
    client = Store(lab.store).client
    children = {name: run for name, run in first.record["mlflow"].items() if name.startswith("train ")}
    assert len(children) == 7
    for run in map(client.get_run, children.values()):
        assert run.data.tags["mlflow.parentRunId"] == first.record["mlflow"]["study"]
        assert run.info.status == "FINISHED"
        history = client.get_metric_history(run.info.run_id, "loss")
        assert len(history) == first.record["settings"]["train"]["steps"]


def test_prefect_has_the_artifacts_and_the_stages(lab: Team, first: Ran) -> None:
    mine = {"flow_runs": {"id": {"any_": [first.run["id"]]}}}
    keys = {one["key"] for one in lab.ask("/artifacts/filter", mine) if one["key"]}
    tables = {"headline", "mcnemar", "claims", "open-questions", "cosines"}
    assert keys == {*tables, "heat-map", "report", "report-page"}
    runs = lab.ask("/task_runs/filter", mine | {"limit": 200})
    assert {one["state_name"] for one in runs} == {"Completed"}
    assert len([one for one in runs if one["name"].startswith("train ")]) == 7


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_is_that_of_the_command(plain: Study, first: Ran, name: str) -> None:
    ours, theirs = (pl.read_parquet(study.folder / f"{name}.parquet") for study in (plain, first))
    assert ours.height > 0
    assert_frame_equal(ours, theirs, check_exact=True)


def test_another_run_finds_all_of_it(lab: Team, first: Ran) -> None:
    again = start(lab)
    assert again.run["id"] != first.run["id"]
    assert again.names(hit=False) == set()
    assert again.names(hit=True) == first.names(hit=False)
    runs = lab.ask("/task_runs/filter", {"flow_runs": {"id": {"any_": [again.run["id"]]}}, "limit": 200})
    assert {one["state_name"] for one in runs if one["name"].startswith("train ")} == {"CacheHit"}
