"""The study on rollouts and a model that somebody else made: real GSM8K solutions, the real stories260K."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from tests.lab.frames import WHOLE
from tests.lab.real_problems import real_data
from tests.lab.study_runs import Lab, Study

pytestmark = pytest.mark.slow

PROBLEMS = 60  # of 1,319: the whole file takes minutes


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("own")
    lines = real_data("gsm8k/model_solutions.jsonl").read_text().splitlines()[:PROBLEMS]
    (folder / "rollouts.jsonl").write_text("\n".join(lines) + "\n")
    words = ["--rollouts", str(folder / "rollouts.jsonl"), "--set", f"model.base={real_data('stories260K')}"]
    words += ["--set", "model.prompt_template=Question: {question}\\nAnswer: "]
    words += ["--set", f"evaluation.problems={real_data('gsm8k/train.jsonl')}"]
    words += ["--set", "train.steps=3", "--set", "train.batch_size=8", "--set", "evaluation.n=12"]
    words += ["--set", "evaluation.max_new_tokens=16"]
    study = Lab(folder / "home").run(*words, out="out")
    assert study.code == 0, study.stderr
    return study


def test_six_adapters_and_the_twins_are_compared_and_zero_accuracy_is_said(study: Study) -> None:
    assert [info["run"] for info in study.record["runs"]] == [
        "sft", "rft", "dft", "rift", "offline_grpo", "dpo", "sft-order1", "sft-init1",
    ]  # fmt: skip
    cosines = pl.read_parquet(study.folder / "pair_metrics.parquet").filter(*WHOLE, metric="cosine")
    assert cosines.height == 28
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


def test_a_study_judged_by_benchmarks_alone(base_model: Path, tmp_path: Path) -> None:
    """Nothing is held out of the rollouts: paths and functions take the first benchmark's problems."""
    rows = [{"prompt": f"{i} + {i}?", "completion": f"{2 * i + wrong}", "answer": str(2 * i), "reward": 1 - wrong}
            for i in range(6) for wrong in (0, 1)]  # fmt: skip
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, first in (("sums", 20), ("more", 40)):
        asked = [{"question": f"{i} + 1?", "answer": str(i + 1)} for i in range(first, first + 8)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    words = ["--rollouts", str(tmp_path / "mine.jsonl"), "--set", f"model.base={base_model}"]
    words += ["--set", "rollouts.holdout=0", "--set", "methods=sft,dpo"]
    words += ["--set", "replicates=", "--set", "init_replicates="]
    words += ["--set", f"evaluation.benchmarks={tmp_path / 'sums.jsonl'},{tmp_path / 'more.jsonl'}"]
    words += ["--set", "evaluation.n=5", "--set", "evaluation.max_new_tokens=4", "--set", "train.steps=2"]
    words += ["--set", "train.batch_size=4", "--set", "paths.n=4"]
    study = Lab(tmp_path / "home").run(*words, out="out")
    assert study.code == 0, study.stderr
    accuracy = pl.read_parquet(study.folder / "accuracy.parquet")
    assert accuracy["benchmark"].unique().sort().to_list() == ["more.jsonl", "sums.jsonl"]
    paths = pl.read_parquet(study.folder / "connectivity.parquet")
    assert paths.select("run_a", "run_b").unique().sort("run_a").rows() == [("base", "base"), ("sft", "dpo")]
    assert paths["n"].unique().to_list() == [4]
    assert pl.read_parquet(study.folder / "divergence.parquet")["n"].unique().to_list() == [5]
    notes = "\n".join(study.record["notes"])
    assert "No problem was held out: the paths were measured on those of sums.jsonl." in notes
    assert "No problem of the paths has a known solution" in notes
    assert "5 of 5 problems without a known solution: logit lens and divergence" in notes
    assert study.record["unparsed_golds"] == {"more.jsonl": 0, "sums.jsonl": 0}
    assert sorted((one["name"], one["n"], one["template"]) for one in study.record["benchmarks"]) == [
        ("more.jsonl", 5, "{question}"), ("sums.jsonl", 5, "{question}"),
    ]  # fmt: skip
