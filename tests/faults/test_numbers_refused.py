"""Numbers that are refused before any work, in one line that names the field and the way out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import InputError
from tasks.planning.preflight import preflight
from tasks.problems.files import read_problems
from tasks.rollouts.files import read_rollouts
from tasks.settings.presets import preset
from tasks.settings.study import build, override
from tests.faults.numbers import sums, write_rows


def refusal(work: Callable[[], Any]) -> str:
    with pytest.raises(InputError) as error:
        work()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.lr=0", "train.lr: Input should be greater than 0, got 0"),
        ("train.lr=1e3", "train.lr: Input should be less than 1, got 1000.0"),
        ("train.lr=NaN", "train.lr: Input should be a finite number, got nan"),
        ("train.lr=1e999", "train.lr: Input should be a finite number, got inf"),
        ("sft.lr_ratio=-1", "sft.lr_ratio: Input should be greater than 0, got -1"),
        ("train.steps=0", "train.steps: Input should be greater than or equal to 1, got 0"),
        ("train.batch_size=0", "train.batch_size: Input should be greater than or equal to 1, got 0"),
        ("train.weight_decay=Infinity", "train.weight_decay: Input should be a finite number, got inf"),
        ("rollouts.k=0", "rollouts.k: Input should be greater than or equal to 1, got 0"),
        ("rollouts.holdout=1", "rollouts.holdout: Input should be less than 1, got 1"),
        ("evaluation.n=0", "evaluation.n: Input should be greater than or equal to 1, got 0"),
        ("lora.alpha=NaN", "lora.alpha: Input should be a finite number, got nan"),
    ],
)
def test_settings_that_are_no_number_or_nothing_at_all(assignment: str, message: str) -> None:
    assert refusal(lambda: build(override(preset("tiny"), [assignment]))) == message


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"reward": float("nan")},
            "field `reward`: expected 0, 1, true or false, got nan; give a verdict, not a score",
        ),
        ({"reward": 0.5}, "field `reward`: expected 0, 1, true or false, got 0.5; give a verdict, not a score"),
        ({"reward": -1}, "field `reward`: expected 0, 1, true or false, got -1; give a verdict, not a score"),
        (
            {"logprobs": [-0.1, float("-inf")]},
            "field `logprobs[1]`: expected a finite log-probability (at most 0), got ",
        ),
        ({"logprobs": [float("nan")]}, "field `logprobs[0]`: expected a finite log-probability (at most 0), got nan"),
        ({"logprobs": [0.5]}, "field `logprobs[0]`: expected a finite log-probability (at most 0), got 0.5"),
        (
            {"answer": float("inf")},
            "field `answer`: expected the reference answer as a non-empty string or a number",
        ),
        ({"prompt": " \n\t"}, "field `prompt`: expected the question as a non-empty string, got ' \\n\\t'"),
        ({"completion": "\ud800"}, "field `completion`: expected valid Unicode, got half a surrogate pair"),
    ],
)
def test_rows_with_numbers_that_mean_nothing(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    rows = [*sums(range(2), 1, 0), {**sums(range(2, 3), 1)[0], **changed}]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = refusal(lambda: read_rollouts(tmp_path / "mine.jsonl"))
    assert said.startswith(f"{tmp_path / 'mine.jsonl'}, line 5, ")
    assert message in said


def test_nothing_to_be_judged_by(tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text("\n\n")
    assert refusal(lambda: read_problems(tmp_path / "none.jsonl")) == (
        f"{tmp_path / 'none.jsonl'}: expected at least one problem, got an empty file; write one problem a line"
    )
    assert refusal(lambda: read_rollouts(tmp_path / "none.jsonl")) == (
        f"{tmp_path / 'none.jsonl'}: expected at least one rollout, got an empty file; write one row a completion"
    )


@pytest.mark.usefixtures("state")
@pytest.mark.parametrize(
    ("rows", "assignments", "message"),
    [
        (sums(range(1), 1, 0), [], "rollouts.holdout: 1 problem cannot be split; set it to 0 or bring more problems"),
        (sums(range(4), 0), ["methods=rft"], "methods: rft needs at least one rollout with reward 1 and there is none; "
         "leave it out: --set methods=... without rft"),
        (sums(range(4), 1), ["methods=dpo"], "methods: dpo needs a problem with both a correct and a wrong rollout and "
         "there is none; leave it out: --set methods=... without dpo"),
        (sums(range(4), 1), ["methods=kto"], "methods: kto needs correct and wrong rollouts and none is wrong; leave "
         "it out: --set methods=... without kto"),
        (sums(range(4), 0), ["methods=kto"], "methods: kto needs correct and wrong rollouts and none is correct; leave "
         "it out: --set methods=... without kto"),
        (sums(range(4), 1, 0), ["methods=offline_grpo", "offline_grpo.clip=0.2"], "offline_grpo.clip: 6 rollouts have "
         "no behaviour log-probabilities (`logprobs`); leave clip unset"),
        ([{**row, "answer": "{"} for row in sums(range(4), 1, 0)], [], "rollouts.holdout: the grader can read no gold "
         "answer of the 1 problems held out, so no answer to them could be right; give evaluation.problems, or correct "
         "the gold answers"),
    ],
)  # fmt: skip
def test_rollouts_that_leave_nothing(
    rows: list[dict[str, Any]], assignments: list[str], message: str, tmp_path: Path
) -> None:
    """Before the base is looked at, let alone anything trained: it is not even there."""
    file = write_rows(tmp_path / "mine.jsonl", rows)
    spec = build(override(preset("own"), ["model.base=/no/such", f"rollouts.file={file}", *assignments]))
    assert refusal(lambda: preflight(spec)) == message


@pytest.mark.usefixtures("state")
def test_a_benchmark_whose_golds_nobody_can_read(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "mine.jsonl", sums(range(4), 1, 0))
    judge = write_rows(tmp_path / "judge.jsonl", [{"question": f"q{i}", "answer": "\\frac{1"} for i in range(3)])
    given = ["model.base=/no/such", f"rollouts.file={file}", f"evaluation.benchmarks={judge}"]
    said = refusal(lambda: preflight(build(override(preset("own"), given))))
    assert said.startswith(f"evaluation.benchmarks: {judge}: the gold of problem 'p-")
    assert said.endswith("cannot be read as an answer: '\\\\frac{1' (and 2 more); correct it or leave it out")
