"""The training stage in a real Prefect flow on a real store: what runs share, what a divergence leaves, what stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.training.world import World

ROOT = Path(__file__).parent.parent.parent

FLOW = """
import json, sys
from pathlib import Path
from tasks import home
home.quiet_environment()
from prefect import flow
from tasks.contracts import ArtifactRef, ModelRef, RunInfo, StageError, StageResult
from tasks.methods.dpo import Dpo
from tasks.methods.sft import Sft
from tasks.specs import LoraSpec, TrainSpec
from tasks.stage import run_stage
from tasks.store import StageKey, open_store
from tasks.training.task import train_task

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
    try:
        run(Sft(), lr=1e30, steps=5, scheduler="constant", warmup=0.0)
        diverged = None
    except StageError as error:
        diverged = str(error)
    runs = store._runs("attributes.run_name != ''")
    return {
        "adapters": [result.ref.sha256 for result in [*shared, again]],
        "again": again.hit,
        "references": [one.info.status for one in runs if one.data.tags.get("stage") == "reference"],
        "diverged": diverged,
        "outcomes": [[one.data.tags["outcome"], one.info.status, one.data.metrics.get("learning_rate", 0) > 0]
                     for one in runs if "outcome" in one.data.tags],
        "left": [path.name for path in home.subfolder("checkpoints").iterdir()],
    }

print("FOUND" + json.dumps(study()))
"""


@pytest.fixture(scope="module")
def found(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process with a state folder of its own found."""
    folder = tmp_path_factory.mktemp("state")
    environment = {**os.environ, "COLINEAR_HOME": str(folder / "home"), "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", FLOW, str(world.base), str(world.rollouts)],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND")]
    assert lines, done.stderr[-3000:]
    answer: dict[str, Any] = json.loads(lines[0].removeprefix("FOUND"))
    return answer


def test_runs_on_the_same_pairs_share_one_reference(found: dict[str, Any]) -> None:
    assert found["references"] == ["FINISHED"]
    assert len(set(found["adapters"][:2])) == 2


def test_how_often_checkpoints_are_written_is_no_other_training(found: dict[str, Any]) -> None:
    assert found["again"]
    assert found["adapters"][2] == found["adapters"][0]


def test_a_divergence_is_an_outcome_with_its_losses(found: dict[str, Any]) -> None:
    assert "training diverged: loss is nan at step 2; lower train.lr" in found["diverged"]
    assert found["outcomes"] == [["diverged", "FAILED", True]]


def test_no_checkpoint_outlives_its_training(found: dict[str, Any]) -> None:
    assert found["left"] == []
