"""A study on a real Ray cluster of two nodes gives what it gives on one machine: ``make test-ray``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tasks.models.external import reference
from tasks.storage.store import Store
from tests.lab.ray_lab import QUIET, RayLab, ray_lab, run_study
from tests.lab.study_runs import Study

pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.skipif(find_spec("prefect_ray") is None, reason="prefect-ray is not installed: make test-ray"),
]

NUMBERS = ("accuracy", "mcnemar", "items", "pair_metrics", "spectra", "connectivity", "barriers", "cka", "divergence")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayLab]:
    with ray_lab(tmp_path_factory.mktemp("ray")) as started:
        yield started


def tell(study: Study) -> None:
    """The times of docs/ray.md, with ``pytest -s``."""
    record, load = study.record, os.getloadavg()[0]
    print(f"{record['machine']}: {record['wall_seconds']} s in the flow, {study.seconds:.0f} s; load {load:.1f}")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The smoke study on this machine, in a store that the cluster does not know."""
    folder = tmp_path_factory.mktemp("alone")
    study = run_study(folder, ("smoke",), "out", 900, QUIET)
    assert study.code == 0, study.stderr
    tell(study)
    return study


@pytest.fixture(scope="module")
def spread(lab: RayLab) -> Study:
    study = lab.run("smoke", out="spread")
    assert study.code == 0, study.stdout + study.stderr
    tell(study)
    return study


def trained(study: Study) -> dict[str, str]:
    """{name of the stage: MLflow run} of the adapters."""
    return {name: run for name, run in study.record["mlflow"].items() if name.startswith("train ")}


def weights(study: Study, store: Store, out: Path) -> dict[str, bytes]:
    """The adapters' files, as MLflow has them."""
    return {
        name: (store.download(f"runs:/{run}/output/adapter", out / run) / "adapter_model.safetensors").read_bytes()
        for name, run in trained(study).items()
    }


def places(lab: RayLab, query: str) -> list[str]:
    """State folders of the processes that computed the stages which match."""
    return [run.data.tags["home"] for run in Store(lab.environment["MLFLOW_TRACKING_URI"])._runs(query)]


@pytest.mark.usefixtures("state")
def test_adapters_are_bit_equal(alone: Study, spread: Study, lab: RayLab, tmp_path: Path) -> None:
    here = weights(alone, Store(alone.record["mlflow"]["uri"]), tmp_path / "alone")
    there = weights(spread, Store(lab.environment["MLFLOW_TRACKING_URI"]), tmp_path / "spread")
    assert len(here) == 7
    assert len(set(here.values())) == 7
    assert there == here


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_is_the_same(alone: Study, spread: Study, name: str) -> None:
    here, there = (pl.read_parquet(study.folder / f"{name}.parquet") for study in (alone, spread))
    assert here.height > 0
    assert_frame_equal(here, there, check_exact=True)


@pytest.mark.usefixtures("state")
def test_both_nodes_worked_and_the_driver_did_not(lab: RayLab, spread: Study) -> None:
    computed = places(lab, "tags.`cache.complete` = '1'")
    assert set(computed) == {str(lab.home("one")), str(lab.home("two"))}
    assert min(map(computed.count, set(computed))) > 5
    assert spread.record["machine"] == "a Ray cluster of 2 nodes, which count 4 CPU cores and 2 GPU"
    assert places(lab, "tags.kind = 'study'") == [str(lab.home("driver"))]


def test_what_the_nodes_do_is_told_where_the_command_runs(spread: Study) -> None:
    for stage in spread.record["stages"]:
        assert f"done    {stage['name']}  " in spread.stdout, stage


@pytest.mark.usefixtures("spread")
def test_another_study_finds_all_of_it(lab: RayLab) -> None:
    again = lab.run("smoke", out="again")
    assert again.code == 0, again.stdout + again.stderr
    assert again.names(hit=False) == set()
    assert "  cached  train sft seed=0 lr=1e-3  was " in again.stdout
    runs = lab.task_runs()
    assert {run["state_type"] for run in runs} == {"COMPLETED"}
    training = [run["state_name"] for run in runs if run["name"].startswith("train ")]
    assert sorted(training) == ["CacheHit"] * 7 + ["Completed"] * 7


@pytest.mark.usefixtures("state")
def test_a_base_of_ones_own_goes_to_the_nodes_by_mlflow(lab: RayLab, base_model: Path, tmp_path: Path) -> None:
    """The rollouts file and the model are the driver's, which is no node here; workers open what their node fetched."""
    rows = [{"prompt": f"{i} + {i}?", "completion": f"{2 * i + wrong}", "answer": str(2 * i), "reward": 1 - wrong}
            for i in range(6) for wrong in (0, 1)]  # fmt: skip
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = [{"question": f"{i} + 1?", "answer": str(i + 1)} for i in range(20, 28)]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    words = ["--rollouts", str(tmp_path / "mine.jsonl"), "--set", f"model.base={base_model}"]
    words += ["--set", "rollouts.holdout=0", "--set", "methods=sft,dpo"]
    words += ["--set", "replicates=", "--set", "init_replicates="]
    words += ["--set", f"evaluation.benchmarks={tmp_path / 'asked.jsonl'}", "--set", "evaluation.max_new_tokens=4"]
    words += ["--set", "train.steps=2", "--set", "train.batch_size=4", "--set", "paths.n=4", "--set", "functions.n=4"]
    study = lab.run(*words, out="own", COLINEAR_RAY=lab.client)
    assert study.code == 0, study.stdout + study.stderr
    store = Store(lab.environment["MLFLOW_TRACKING_URI"])
    (published,) = store._runs("tags.stage = 'published'")
    assert published.data.tags["home"] == str(lab.home("driver"))
    digest = reference(base_model).sha256
    copies = [lab.home(node) / "downloads" / digest for node in ("one", "two")]
    original = (base_model / "model.safetensors").read_bytes()
    there = [(copy / "output" / "model.safetensors").read_bytes() for copy in copies if copy.exists()]
    assert there
    assert set(there) == {original}
    assert not (lab.home("driver") / "downloads" / digest).exists()


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"RAY_AUTH_TOKEN": "0" * 32}, "COLINEAR_RAY: cannot join the Ray cluster 127.0.0.2:"),
        ({"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}, "COLINEAR_RAY: node "),
        ({"PREFECT_API_URL": "http://127.0.0.1:9/api"}, "PREFECT_API_URL: http://127.0.0.1:9/api: "),
    ],
)
def test_what_a_node_cannot_reach_is_said_before_work(lab: RayLab, changed: dict[str, Any], complaint: str) -> None:
    refused = lab.run("smoke", out="refused", timeout=120, **changed)
    assert refused.code == 2
    assert complaint in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert refused.stdout == ""
    assert not refused.folder.exists()
