"""The study on rollouts and a model that somebody else made: real GSM8K solutions, the real stories260K."""

from __future__ import annotations

import json
import os
from pathlib import Path

import polars as pl
import pytest

from tests.flows.study_runs import Lab, Study

pytestmark = pytest.mark.slow

PROBLEMS = 60  # of 1,319: the whole file takes minutes


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    data = Path(os.environ.get("COLINEAR_DATA") or "missing")
    if not (data / "gsm8k" / "model_solutions.jsonl").is_file():
        pytest.skip("COLINEAR_DATA names no folder with gsm8k/model_solutions.jsonl and stories260K")
    folder = tmp_path_factory.mktemp("own")
    lines = (data / "gsm8k" / "model_solutions.jsonl").read_text().splitlines()[:PROBLEMS]
    (folder / "rollouts.jsonl").write_text("\n".join(lines) + "\n")
    words = ["--rollouts", str(folder / "rollouts.jsonl"), "--set", f"model.base={data / 'stories260K'}"]
    words += ["--set", "model.prompt_template=Question: {question}\\nAnswer: "]
    words += ["--set", f"evaluation.problems={data / 'gsm8k' / 'train.jsonl'}"]
    words += ["--set", "train.steps=3", "--set", "train.batch_size=8", "--set", "evaluation.n=12"]
    words += ["--set", "evaluation.max_new_tokens=16"]
    study = Lab(folder / "home").run(*words, out="out")
    assert study.code == 0, study.stderr
    return study


def test_six_adapters_and_the_twin_are_compared_and_zero_accuracy_is_said(study: Study) -> None:
    assert [info["run"] for info in study.record["runs"]] == [
        "sft", "rft", "dft", "rift", "offline_grpo", "dpo", "sft-order1",
    ]  # fmt: skip
    cosines = pl.read_parquet(study.folder / "pair_metrics.parquet").filter(
        (pl.col("module") == "*") & (pl.col("metric") == "cosine")
    )
    assert cosines.height == 21
    assert cosines["value"].is_finite().all()
    assert "does not solve these problems" in study.stdout
    assert "does not solve these problems" in (study.folder / "report.html").read_text()


def test_rows_beyond_the_context_are_counted_by_the_named_rule(study: Study) -> None:
    rollouts = study.record["rollouts"]
    dropped = rollouts["dropped"]["longer than model.max_length"]
    assert dropped > 0
    assert rollouts["rows"] + dropped == 4 * PROBLEMS
    assert rollouts["label_and_grader_compared"] == rollouts["rows"]
    assert rollouts["label_and_grader_disagree"] == 0


def test_held_out_answer_loss_falls_for_sft(study: Study) -> None:
    accuracy = pl.read_parquet(study.folder / "accuracy.parquet")
    loss = dict(accuracy.select("run", "answer_loss").iter_rows())
    assert loss["sft"] < loss["base"]
    assert accuracy["correct"].sum() == 0


def test_record_is_json_that_names_the_base(study: Study) -> None:
    settings = json.loads((study.folder / "study.json").read_text())["settings"]
    assert settings["model"]["base"].endswith("stories260K")
