"""Bad input through the real command: exit code 2, one line that names the field, nothing written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows.cli.main import main, study_spec
from tests.lab.living import colinear


@dataclass(frozen=True)
class Case:
    """A command line, in which {base}, {rollouts}, ... stand for the files of `material`, and what it must say."""

    name: str
    words: str
    message: str
    environment: tuple[tuple[str, str], ...] = ()


CASES = [
    Case("unknown key", "--set train.lrr=1", "--set train.lrr: unknown setting 'lrr'; did you mean 'lr'?"),
    Case("study file's key", "{toml}", "train.lrr: unknown setting; did you mean 'lr'?"),
    Case("slots", "smoke", "COLINEAR_SLOTS: expected a whole number", (("COLINEAR_SLOTS", "x"),)),
    Case("report over a file", "smoke --out {toml}", "--out: {toml} is a file; give a folder"),
    Case("base alone", "--set model.base={base}", "rollouts.file: a base of one's own needs rollouts: --rollouts FILE"),
    Case("missing rollouts", "--rollouts none.jsonl --set model.base={base}", "{cwd}/none.jsonl: no such file"),
    Case("bad row", "--rollouts {bad_row} --set model.base={base}", "{bad_row}, line 2, field `completion`: expected "),
    Case("nothing right", "--rollouts {wrong} --set model.base={base}", "methods: rft needs at least one rollout with"),
    Case(
        "unknown to the Hub", "--rollouts {rollouts} --set model.base=nobody/nothing",
        "model.base: 'nobody/nothing' is neither a folder here nor to be had from the Hub: ", (("HF_HUB_OFFLINE", "1"),)
    ),
    Case(
        "target of the base", "--rollouts {rollouts} --set model.base={base} --set lora.targets=c_attn",
        "lora.targets: the base has no module 'c_attn'; it",
    ),
]  # fmt: skip
"""Of each depth of the look-over; its other refusals are in the tests of settings, files, models and the preflight."""


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


@pytest.fixture(scope="module")
def material(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("material")
    good = {"prompt": "q", "completion": "4", "reward": 1}
    (folder / "study.toml").write_text('preset = "smoke"\n[train]\nlrr = 1\n')
    (folder / "work").mkdir()
    return {
        "cwd": folder / "work",
        "base": base_model,
        "toml": folder / "study.toml",
        "rollouts": rollouts(folder / "rollouts.jsonl", 0, 1),
        "wrong": rollouts(folder / "wrong.jsonl", 0, 0),
        "bad_row": jsonl(folder / "bad_row.jsonl", good, {"prompt": "q", "completion": 4, "reward": 1}),
    }


AS_A_PROCESS = {"report over a file", "unknown to the Hub", "target of the base"}
"""One of the driver's refusals, one that the environment decides at the start, one of a worker's; the others here."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_is_refused_in_one_line(
    case: Case, material: dict[str, Path], state: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = [word.format(**material) for word in case.words.split()]
    if case.name in AS_A_PROCESS:
        done = colinear("study", *words, home=state, cwd=material["cwd"], **dict(case.environment))
        code, said, complaint = done.returncode, done.stdout, done.stderr
    else:
        monkeypatch.chdir(material["cwd"])
        for name, value in case.environment:
            monkeypatch.setenv(name, value)
        code = main(["study", *words])
        said, complaint = capfd.readouterr()
    assert complaint.startswith(f"colinear: {case.message.format(**material)}"), complaint
    assert complaint.count("\n") == 1
    assert said == ""
    assert code == 2
    assert list(material["cwd"].iterdir()) == []


def test_several_assignments_and_a_file_of_the_working_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    found = study_spec("smoke", ["seed=1", "methods=sft,dpo", "seed=2"], None)
    assert (found.name, found.seed, found.methods) == ("smoke", 2, ("sft", "dpo"))
    relative = study_spec(None, ["model.base=b"], "mine.jsonl")
    assert relative.rollouts.file == str(tmp_path / "mine.jsonl")
