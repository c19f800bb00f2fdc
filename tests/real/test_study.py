"""A real language model from its GGUF file to a report: gradient steps, answers, and a comparison with its base.

``make test-real``; it takes SmolLM2-135M-Instruct as ``make real-models`` leaves it, and fails where that is not there.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file

from tests.lab.living import colinear as run
from tests.real.fetch import FOLDER, MODELS, sha256_of

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]
MODEL = FOLDER / MODELS["smollm2"].file
PROBLEMS = [(a, b) for a in range(2, 18) for b in (3, 5)]
SETTINGS = (
    "methods=sft,dpo", "replicates=", "train.steps=2", "train.batch_size=4", "evaluation.n=8",
    "evaluation.max_new_tokens=64", "paths.n=2", "paths.alphas=0,1", "functions.n=2", "geometry.base_measures=false",
)  # fmt: skip


def question(a: int, b: int) -> str:
    return f"Tom has {a} apples and buys {b} more. How many apples does he have now?"


def colinear(folder: Path, *words: str) -> str:
    """The command's output. It waits for nobody's device slots: those are in the temporary folder."""
    (folder / "tmp").mkdir(exist_ok=True)
    more = {"HF_HUB_OFFLINE": "1", "TMPDIR": str(folder / "tmp")}
    done = run(*words, home=folder / "home", cwd=folder, timeout=900, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two methods, two steps each, judged on eight problems that are not among its rollouts."""
    assert MODEL.is_file(), f"{MODEL} is not there: run `make real-models REAL=smollm2` first"
    assert sha256_of(MODEL) == MODELS["smollm2"].sha256
    folder = tmp_path_factory.mktemp("real")
    with (folder / "rollouts.jsonl").open("w") as rows:
        for a, b in PROBLEMS[:24]:
            said = [f"He has {a} + {b} = {c} apples. The answer is \\boxed{{{c}}}." for c in (a + b, a + b + 1)]
            row = {"prompt": question(a, b), "completions": said, "rewards": [1, 0], "answer": str(a + b)}
            rows.write(json.dumps(row) + "\n")
    with (folder / "problems.jsonl").open("w") as rows:
        for a, b in PROBLEMS[24:]:
            rows.write(json.dumps({"question": question(a, b), "answer": str(a + b)}) + "\n")
    given = [f"model.base={MODEL}", f"evaluation.problems={folder / 'problems.jsonl'}", *SETTINGS]
    settings = [word for one in given for word in ("--set", one)]
    colinear(folder, "study", "smollm2", "--rollouts", str(folder / "rollouts.jsonl"), *settings, "--out", "study")
    return folder


def test_the_report_says_that_the_base_was_quantised_and_how_it_is_asked(folder: Path) -> None:
    page = (folder / "study" / "report.md").read_text()
    assert (
        "The base was quantised: SmolLM2-135M-Instruct.Q4_1.gguf is Q4_1 (Q4_1 79%, Q8_0 21%), dequantised to" in page
    )
    study = json.loads((folder / "study" / "study.json").read_text())
    assert study["turn"]["prompt"] == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is 1 + 1?\nPlease reason step by step, and put your final answer within \\boxed{}."
        "<|im_end|>\n<|im_start|>assistant\n"
    )
    assert [text for _, text, _ in study["turn"]["ends"]] == ["<|im_end|>"]
    assert "dequantise" in {stage["stage"] for stage in study["stages"]}


def test_it_knows_english_and_learns(folder: Path) -> None:
    """Weights or rows in a wrong order would say so: a guess among 49,152 tokens costs ln 49,152 = 10.8 nats."""
    losses = pl.read_parquet(folder / "study" / "training.parquet").filter(run="sft", metric="loss")["value"].to_list()
    assert len(losses) == 2
    assert losses[1] < losses[0] < 2.0  # nats a token of the rollouts; seen: .92 and .78
    accuracy = pl.read_parquet(folder / "study" / "accuracy.parquet").select("run", "answer_loss").rows()
    answers = dict(accuracy)
    assert answers["sft"] < answers["base"] - 0.1  # of the boxed answers; seen: 2.21 and 2.59
    assert abs(answers["dpo"] - answers["base"]) < 0.1  # a tenth of the rate


def test_its_greedy_answers_are_texts(folder: Path) -> None:
    items = pl.read_parquet(folder / "study" / "items.parquet")
    assert items.group_by("run").len().sort("run").rows() == [("base", 8), ("dpo", 8), ("sft", 8)]
    said = items.filter(run="base")["completion"]
    assert said.str.contains("apples").all()
    assert not said.str.contains("<|im_").any()


def test_the_adapters_compare_with_the_gguf_file_as_base(folder: Path) -> None:
    artifacts = (folder / "home" / "artifacts").rglob("adapter_model.safetensors")
    adapters = sorted({path.parent for path in artifacts})
    assert len(adapters) == 2
    for adapter in adapters:
        updates = load_file(adapter / "adapter_model.safetensors")
        assert len(updates) == 30 * 4 * 2
        assert all(np.abs(tensor).max() > 0 for tensor in updates.values())
    made = set((folder / "home" / "artifacts").rglob("model.safetensors"))
    words = [f"a={adapters[0]}", f"b={adapters[1]}", "--base", str(MODEL), "--out", "compare"]
    colinear(folder, "compare", *words)
    assert set((folder / "home" / "artifacts").rglob("model.safetensors")) == made  # dequantised once
    page = (folder / "compare" / "report.md").read_text()
    assert "The base was quantised: SmolLM2-135M-Instruct.Q4_1.gguf is Q4_1" in page
    study, compared = (pl.read_parquet(folder / name / "pair_metrics.parquet") for name in ("study", "compare"))
    whole = {"module": "*", "metric": "cosine"}
    cosines = [
        frame.filter(**whole).filter(pl.col("layer").is_null() & pl.col("projection").is_null())["value"].to_list()
        for frame in (study, compared)
    ]
    assert len(cosines[0]) == 1
    assert cosines[0] == pytest.approx(cosines[1], abs=1e-12)
