"""The training stage in a real Prefect flow on a real store: what runs share, what a divergence leaves, what stays."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.lab.living import python
from tests.lab.world import World

pytestmark = pytest.mark.slow  # trainings in worker processes


FLOW = """
import json, sys
from pathlib import Path
from tasks.core import home
home.quiet_environment()
import polars as pl
from prefect import flow
from tasks.core.errors import StageError
from tasks.core.results import ArtifactRef, ModelRef, RunInfo, StageResult
from tasks.methods.dpo import Dpo
from tasks.methods.sft import Sft
from tasks.core.sections import LoraSpec, TrainSpec
from tasks.stage import run_stage
from tasks.storage.store import StageKey, open_store
from tasks.training.log import divergence
from tasks.training.reference import REFERENCE
from tasks.training.task import _reference_key, train_task

base_folder, rollouts = sys.argv[1:]
LORA = LoraSpec(r=4, alpha=8.0)

def grade(out, progress):
    (out / "rollouts.parquet").write_bytes(Path(rollouts).read_bytes())
    return {}

@flow
def study():
    store = open_store()
    parent = store.open_run("study")
    graded = run_stage(StageKey("grade", 1, {}, {}), "grade", grade)
    base = ModelRef(ArtifactRef(base_folder, "base", "external-model", ""))
    def run(method, seed=0, lr=1e-2, **settings):
        info = RunInfo("run", type(method).__name__.lower(), seed, 7, lr)
        train = TrainSpec.model_validate({"steps": 3, "batch_size": 8, "checkpoint_steps": 1, **settings})
        return train_task.submit(info, method, train, LORA, base, graded, parent).result()
    shared = [run(Dpo(), reference="stored"), run(Dpo(beta=.3), seed=1, lr=2e-2, reference="stored")]
    again = run(Dpo(), reference="stored", checkpoint_steps=2)
    (reference,) = shared[0].used
    store.client.delete_run(reference.ref.run_id)
    rows = pl.read_parquet(store.local(reference.ref) / REFERENCE)
    key = _reference_key(rows["row"].to_list(), TrainSpec(), base, graded, "cpu")
    def write_other(out, progress):
        rows.with_columns(pl.col("logprob") + 1e-6).write_parquet(out / REFERENCE)
        return {}
    other = run_stage(key, "reference log-probabilities", write_other)
    lost = run(Dpo(), reference="stored")
    early = run(Sft(), keep_steps=[2, 1, 3])
    plain = run(Sft(), seed=1)
    late = run(Sft(), seed=1, keep_steps=[1])
    short = run(Sft(), seed=1, steps=1, schedule_steps=3)
    sizes = [one.summary.get("step") for one in early.used]
    diverged = []
    for _ in range(2):
        try:
            run(Sft(), lr=1e30, steps=5, scheduler="constant", warmup=0.0)
        except StageError as error:
            diverged.append([type(error).__name__, str(error), divergence(str(error))])
    runs = store._runs("attributes.run_name != ''")
    return {
        "adapters": [result.ref.sha256 for result in [*shared, again]],
        "again": again.hit,
        "used": [[used.stage, used.hit] for result in [*shared, again] for used in result.used],
        "other": [lost.used[0].ref == other.ref, other.ref.sha256 != reference.ref.sha256, lost.hit],
        "references": [one.info.status for one in runs if one.data.tags.get("stage") == "reference"],
        "kept": [[[one.stage, one.name, one.hit] for one in result.used] for result in (early, late)],
        "steps": sizes,
        "as trained": [late.hit, late.ref == plain.ref, late.used[0].ref.sha256 != plain.ref.sha256,
                       (store.local(late.used[0].ref) / "adapter/adapter_model.safetensors").read_bytes()
                       == (store.local(short.ref) / "adapter/adapter_model.safetensors").read_bytes()],
        "diverged": diverged,
        "outcomes": [[one.data.tags["outcome"], one.info.status, one.data.metrics.get("learning_rate", 0) > 0,
                      one.data.tags.get("cache.source_run"), one.info.run_id]
                     for one in runs if "outcome" in one.data.tags],
        "left": [path.name for path in home.subfolder("checkpoints").iterdir()],
    }

print("FOUND" + json.dumps(study()))
"""


@pytest.fixture(scope="module")
def found(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process with a state folder of its own found."""
    folder = tmp_path_factory.mktemp("state")
    more = {"TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
    done = python("-c", FLOW, str(world.base), str(world.rollouts), home=folder / "home", **more)
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND")]
    assert lines, done.stderr[-3000:]
    answer: dict[str, Any] = json.loads(lines[0].removeprefix("FOUND"))
    return answer


def test_runs_on_the_same_pairs_share_one_reference(found: dict[str, Any]) -> None:
    assert found["used"] == [["reference", False], ["reference", True], ["reference", True]]
    assert found["references"] == ["FINISHED"]
    assert len(set(found["adapters"][:2])) == 2


def test_a_reference_that_was_lost_and_came_out_otherwise_trains_nothing_again(found: dict[str, Any]) -> None:
    """On a GPU the last bit may differ: what names a training's input is which reference it is, not its bytes."""
    assert found["other"] == [True, True, True]


def test_kept_steps_are_artifacts_of_their_own_and_no_other_training(found: dict[str, Any]) -> None:
    """Of the step before the last and the first; of a training that was there without them it is repeated to them."""
    early = [["kept step", f"keep run-step-{step}", False] for step in (1, 2)]
    assert found["kept"] == [early, early[:1]]
    assert found["steps"] == [1, 2]
    assert found["as trained"] == [True, True, True, True]


def test_how_often_checkpoints_are_written_is_no_other_training(found: dict[str, Any]) -> None:
    assert found["again"]
    assert found["adapters"][2] == found["adapters"][0]


def test_a_divergence_is_an_outcome_with_its_losses(found: dict[str, Any]) -> None:
    kind, message, reason = found["diverged"][0]
    assert kind == "Diverged"
    assert "(full traceback" in message
    assert reason == "training diverged: loss is nan at step 2; lower train.lr"
    assert found["outcomes"][-1][:4] == ["diverged", "FAILED", True, None]


def test_what_diverged_once_is_not_trained_again(found: dict[str, Any]) -> None:
    kind, message, reason = found["diverged"][1]
    first = found["outcomes"][-1][4]
    assert (kind, reason) == ("Diverged", found["diverged"][0][2])
    assert f"(found in MLflow run {first}, not trained again)" in message
    assert len(found["outcomes"]) == 2
    assert found["outcomes"][0][:4] == ["diverged", "FAILED", False, first]  # no step was taken


def test_no_checkpoint_outlives_its_training(found: dict[str, Any]) -> None:
    assert found["left"] == []
