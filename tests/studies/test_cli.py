"""Bad input through the real command: exit code 2, one line that names the field, nothing written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Case:
    """A command line, in which {base}, {rollouts}, ... stand for the files of `material`, and what it must say."""

    name: str
    words: str
    message: str
    environment: tuple[tuple[str, str], ...] = ()


OWN = "--rollouts {rollouts} --set model.base={base}"
CASES = [
    Case("unknown preset", "nope", "preset 'nope': unknown; known: tiny, tiny-replicates, tiny-why, smoke, own, "),
    Case("unknown key", "--set train.lrr=1", "--set train.lrr: unknown setting 'lrr'; did you mean 'lr'?"),
    Case("bad value", "smoke --set train.lr=fast", "train.lr: Input should be a valid number, "),
    Case("missing study file", "none.toml", "none.toml: no such file"),
    Case("study file's key", "{toml}", "train.lrr: unknown setting; did you mean 'lr'?"),
    Case("slots", "smoke", "COLINEAR_SLOTS: expected a whole number", (("COLINEAR_SLOTS", "x"),)),
    Case("report over a file", "smoke --out {toml}", "--out: {toml} is a file; give a folder"),
    Case("target of the world", "--set lora.targets=c_attn", "lora.targets: the base has no module 'c_attn'; it has "),
    Case("base alone", "--set model.base={base}", "rollouts.file: a base of one's own needs rollouts: --rollouts FILE"),
    Case("rollouts alone", "--rollouts {rollouts}", "model.base: own rollouts need the model that they are for: "),
    Case("missing rollouts", "--rollouts none.jsonl --set model.base={base}", "{cwd}/none.jsonl: no such file"),
    Case("bad row", "--rollouts {bad_row} --set model.base={base}", "{bad_row}, line 2, field `completion`: expected "),
    Case("bad line", "--rollouts {bad_line} --set model.base={base}", "{bad_line}, line 2: expected one JSON object"),
    Case("nothing right", "--rollouts {wrong} --set model.base={base}", "methods: rft needs at least one rollout with"),
    Case("nothing mixed", "--rollouts {right} --set model.base={base}", "methods: dpo needs a problem with both a "),
    Case("missing problems", f"{OWN} --set evaluation.problems=none.jsonl", "none.jsonl: no such file"),
    Case("missing base", "--rollouts {rollouts} --set model.base=./none", "model.base: no folder './none'"),
    Case("pickled base", "--rollouts {rollouts} --set model.base={pickled}", "model.base: {pickled} has no model.safe"),
    Case(
        "unknown to the Hub", "--rollouts {rollouts} --set model.base=nobody/nothing",
        "model.base: 'nobody/nothing' is neither a folder here nor to be had from the Hub: ", (("HF_HUB_OFFLINE", "1"),)
    ),
    # These load transformers in a worker, which takes seconds.
    Case("no chat template", "--rollouts {rollouts} --set model.base={plain}", "model.prompt_template: the base has "),
    Case("no pad token", "--rollouts {rollouts} --set model.base={unpadded}", "model.pad_token: the tokenizer of "),
    Case("target of the base", f"{OWN} --set lora.targets=c_attn", "lora.targets: the base has no module 'c_attn'; it"),
]  # fmt: skip


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rollouts(path: Path, *rewards: int) -> Path:
    return jsonl(
        path,
        *[
            {"problem_id": f"p{i}", "prompt": f"{i}?", "completion": str(k), "answer": "1", "reward": reward}
            for i in range(10)
            for k, reward in enumerate(rewards)
        ],
    )


def changed(base: Path, folder: Path, *removed: str, without: str = "") -> Path:
    """A copy of ``base`` without some files and without one key of its tokenizer's configuration."""
    shutil.copytree(base, folder)
    for name in removed:
        (folder / name).unlink()
    values = json.loads((folder / "tokenizer_config.json").read_text())
    values.pop(without, None)
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    return folder


@pytest.fixture(scope="module")
def material(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("material")
    good = {"prompt": "q", "completion": "4", "reward": 1}
    (folder / "study.toml").write_text('preset = "smoke"\n[train]\nlrr = 1\n')
    (folder / "bad_line.jsonl").write_text(json.dumps(good) + "\n{'prompt': 1}\n")
    (folder / "work").mkdir()
    return {
        "cwd": folder / "work",
        "base": base_model,
        "plain": changed(base_model, folder / "plain", "chat_template.jinja"),
        "unpadded": changed(base_model, folder / "unpadded", without="pad_token"),
        "pickled": changed(base_model, folder / "pickled", "model.safetensors"),
        "toml": folder / "study.toml",
        "rollouts": rollouts(folder / "rollouts.jsonl", 0, 1),
        "wrong": rollouts(folder / "wrong.jsonl", 0, 0),
        "right": rollouts(folder / "right.jsonl", 1, 1),
        "bad_row": jsonl(folder / "bad_row.jsonl", good, {"prompt": "q", "completion": 4, "reward": 1}),
        "bad_line": folder / "bad_line.jsonl",
    }


Answers = dict[str, subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def answers(material: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """What the command says in every case. Two at a time: most of each second is the interpreter's start."""
    folder = tmp_path_factory.mktemp("machine")
    common = {
        **os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder), "COLINEAR_HOME": str(folder / "home"),
        "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip

    def run(case: Case) -> subprocess.CompletedProcess[str]:
        words = [word.format(**material) for word in case.words.split()]
        return subprocess.run(
            [sys.executable, "-m", "flows.cli", "study", *words], cwd=material["cwd"], text=True, capture_output=True,
            env={**common, **dict(case.environment)}, timeout=180, check=False,
        )  # fmt: skip

    with ThreadPoolExecutor(2) as pool:
        return dict(zip([case.name for case in CASES], pool.map(run, CASES), strict=True))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_is_refused_in_one_line(case: Case, answers: Answers, material: dict[str, Path]) -> None:
    done = answers[case.name]
    assert done.stderr.startswith(f"colinear: {case.message.format(**material)}"), done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert done.returncode == 2
    assert list(material["cwd"].iterdir()) == []


# --- within this process ----------------------------------------------------------------------------------------------


def test_several_assignments_and_a_file_of_the_working_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from flows.cli.main import study_spec

    monkeypatch.chdir(tmp_path)
    found = study_spec("smoke", ["seed=1", "methods=sft,dpo", "seed=2"], None)
    assert (found.name, found.seed, found.methods) == ("smoke", 2, ("sft", "dpo"))
    relative = study_spec(None, ["model.base=b"], "mine.jsonl")
    assert relative.rollouts.file == str(tmp_path / "mine.jsonl")
