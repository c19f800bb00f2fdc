"""What a finished study leaves in MLflow: the made-up study's own numbers, in a real store."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
import pytest

from tasks.core.results import RunInfo, StageResult
from tasks.reporting.publish.mlflow_record import describe_by_report, record_study
from tasks.reporting.publish.write import write_report
from tasks.reporting.views.study import Study
from tasks.storage.mlflow_pages import run_page
from tasks.storage.recorded import method_tags
from tasks.storage.store import STUDIES, StageKey, Store, open_store
from tests.lab.adapters import adapter

pytestmark = pytest.mark.slow  # an MLflow database

GRADED = pl.DataFrame({"problem_id": ["a", "a", "b"], "reward": [1.0, 0.0, 1.0], "completion_ids": [[1], [2], [3]]})
PROBLEMS = pl.DataFrame({"problem_id": ["r", "h", "i", "j"], "split": ["rollouts", "heldout", "heldout", "hard"]})


@dataclass(frozen=True)
class Lab:
    """A state folder with a study's report beside it."""

    home: Path
    tables: Study
    files: list[Path]


@pytest.fixture(scope="module")
def lab(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("record")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLINEAR_HOME", str(folder / "home"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield Lab(folder / "home", study, write_report(study, folder / "report"))


def stage(store: Store, name: str, frame: pl.DataFrame, file: str) -> StageResult:
    key = StageKey(name, 1, {}, {})
    with store.locked(key):
        entry = store.find(key) or store.produce(
            key, store.open_run(name, key=key), lambda out: frame.write_parquet(out / file) or {}
        )
    return StageResult(name, name, entry.ref, entry.seconds)


def train(store: Store, info: RunInfo, parent: str, seed: int) -> StageResult:
    """As `train_task` records it: its own run where it trains, else a child run that points to the source."""
    key = StageKey("train", 1, {}, {"run": info.run})
    kept = {"parent": parent, "experiment": STUDIES, "params": {"lr": info.lr}}
    with store.locked(key):
        entry = store.find(key)
        if entry is None:
            child = store.open_run(info.run, key=key, tags=method_tags(info), **kept)
            entry = store.produce(key, child, lambda out: {"n": len(str(adapter(out / "adapter", seed)))})
        else:
            source = {"cache.source_run": entry.ref.run_id}
            child = store.open_run(info.run, tags={**method_tags(info), **source}, **kept)
    return StageResult("train", info.run, entry.ref, entry.seconds, summary={"mlflow_run": child})


@dataclass(frozen=True)
class Recorded:
    """One study in MLflow, and what it was warned of."""

    run: str
    children: dict[str, str]
    warnings: list[str]


def record(lab: Lab, name: str = "made-up") -> Recorded:
    store, warnings = open_store(), list[str]()
    parent = store.open_study(name, {}, {})
    infos = [info for info in lab.tables.runs if info.method != "base"]
    trained = {info: train(store, info, parent, seed) for seed, info in enumerate(infos)}
    graded = stage(store, "grade", GRADED, "rollouts.parquet")
    problems = stage(store, "problems", PROBLEMS, "problems.parquet")
    tables = replace(lab.tables, record={**lab.tables.record, "name": name})
    record_study(tables, lab.files, parent, trained, graded, problems, warnings.append)
    store.end_study(parent, "FINISHED")
    return Recorded(parent, {info.run: str(one.summary["mlflow_run"]) for info, one in trained.items()}, warnings)


@pytest.fixture(scope="module")
def recorded(lab: Lab) -> Recorded:
    return record(lab)


def test_each_adapters_run_has_what_one_sorts_by(lab: Lab, recorded: Recorded) -> None:
    assert recorded.warnings == []
    run = open_store().run(recorded.children["dpo"])
    accuracy = lab.tables.accuracy.filter(run="dpo", benchmark="heldout")["accuracy"].item()
    base = lab.tables.accuracy.filter(run="base", benchmark="heldout")["accuracy"].item()
    assert run.data.metrics["accuracy"] == accuracy
    assert run.data.metrics["accuracy_minus_base"] == pytest.approx(accuracy - base, abs=1e-12)
    assert run.data.metrics["cosine_to_sft"] == -0.021
    assert {"update_norm", "effective_rank"} <= run.data.metrics.keys()


def test_the_study_has_its_base_its_best_and_the_claims_counted(lab: Lab, recorded: Recorded) -> None:
    run = open_store().run(recorded.run)
    trained = lab.tables.accuracy.filter(pl.col("run").is_in(list(recorded.children)), benchmark="heldout")
    assert run.data.metrics["best_accuracy"] == trained["accuracy"].max()
    best = trained.sort("accuracy")["run"].to_list()[-1]
    assert run.data.tags["best_run"].split()[0] == best.split("-")[0]
    assert run.data.metrics["base_accuracy"] == (
        lab.tables.accuracy.filter(run="base", benchmark="heldout")["accuracy"].item()
    )
    assert (run.data.metrics["adapters"], run.data.metrics["methods"]) == (7, 6)
    claims = [one for one in json.loads((lab.files[0].parent / "claims.json").read_text()) if not one["open"]]
    counted = {name: value for name, value in run.data.metrics.items() if name.startswith("claims_")}
    assert sum(counted.values()) == len(claims)
    assert counted["claims_hold"] == sum(one["verdict"] == "holds" for one in claims) > 0


def test_data_sets_are_inputs_of_the_study_and_of_each_adapter(recorded: Recorded) -> None:
    for run_id in (recorded.run, *recorded.children.values()):
        read = {one.dataset.name: one for one in open_store().run(run_id).inputs.dataset_inputs}
        assert {name: one.tags[0].value for name, one in read.items()} == {
            "graded rollouts": "training", "held-out problems": "evaluation",
        }  # fmt: skip
    rollouts, problems = read["graded rollouts"].dataset, read["held-out problems"].dataset
    assert json.loads(rollouts.profile) == {"rows": 3, "problems": 2, "correct": 2}
    assert json.loads(problems.profile) == {"hard": 1, "heldout": 2}
    assert [one["type"] for one in json.loads(rollouts.schema)["mlflow_colspec"]] == ["string", "double", "any"]
    assert rollouts.source_type == "local"
    assert pl.read_parquet(json.loads(rollouts.source)["uri"].removeprefix("file://")).equals(GRADED)


def test_descriptions_link_to_adapters_and_models(recorded: Recorded) -> None:
    store = open_store()
    study, child = (store.run(run).data.tags["mlflow.note.content"] for run in (recorded.run, recorded.children["rft"]))
    assert f"[rft]({run_page(store.experiments[STUDIES], recorded.children['rft'])})" in study
    assert "colinear compare models:/made-up-rft/1 OTHER..." in child
    assert "(#/models/made-up-rft/versions/1)" in child
    tags = store.run(recorded.children["rft"]).data.tags
    assert (tags["adapter"], tags["study"]) == ("models:/made-up-rft/1", "made-up")


def test_a_study_from_the_cache_registers_nothing_anew_and_says_where_it_was_trained(
    lab: Lab, recorded: Recorded
) -> None:
    store = open_store()
    before = {(one.name, one.version) for one in store.client.search_model_versions()}
    again = record(lab)
    assert {(one.name, one.version) for one in store.client.search_model_versions()} == before
    run = store.run(again.children["rft"])
    assert again.children["rft"] != recorded.children["rft"]
    assert run.data.tags["adapter"] == "models:/made-up-rft/1"
    assert f"trained in run [{recorded.children['rft']}]" in run.data.tags["mlflow.note.content"]
    assert run.data.metrics == store.run(recorded.children["rft"]).data.metrics


def test_the_twin_is_a_version_of_its_method(recorded: Recorded) -> None:
    found = {one.version: one for one in open_store().client.search_model_versions("name = 'made-up-sft'")}
    assert {str(version): one.tags["data_seed"] for version, one in found.items()} == {"1": "0", "2": "1"}


def test_a_store_without_a_registry_ends_no_study(lab: Lab, recorded: Recorded) -> None:
    with closing(sqlite3.connect(lab.home / "mlflow.db")) as database, database:
        database.execute(
            "create trigger none_here before insert on registered_models begin select raise(abort, 'no models'); end"
        )
    try:
        refused = record(lab, "refused")
    finally:
        with closing(sqlite3.connect(lab.home / "mlflow.db")) as database, database:
            database.execute("drop trigger none_here")
    (warning,) = refused.warnings
    assert warning.startswith("MLflow has no registered adapters of this study: ")
    run = open_store().run(refused.run)
    assert run.info.status == "FINISHED"
    assert "| rft |" not in run.data.tags["mlflow.note.content"]  # it is a link still
    assert "accuracy" in open_store().run(refused.children["rft"]).data.metrics


def test_a_page_over_several_is_described_by_its_beginning(lab: Lab) -> None:
    run = open_store().open_run("comparison")
    describe_by_report(run, lab.files[0])
    said = open_store().run(run).data.tags["mlflow.note.content"]
    assert said.startswith("# ")
    assert "The rest is in report.md" in said
    describe_by_report(run, Path("/no/such/folder/report.html"))  # worth no failure
    assert open_store().run(run).data.tags["mlflow.note.content"] == said
