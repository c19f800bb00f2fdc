"""Own rollouts on their way into a study: held out, tokenised, and those that are too long counted and dropped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tasks.core.errors import InputError
from tasks.core.frames import PROBLEMS, ROLLOUTS
from tasks.core.results import LocalBase
from tasks.models.load import load_tokenizer
from tasks.models.turn import open_turn
from tasks.rollouts.files import heldout_split
from tasks.rollouts.own import own_rollouts

Take = Callable[..., dict[str, Any]]


@pytest.fixture
def take(base_model: Path, tmp_path: Path) -> Take:
    """Writes rows to a file and takes them in; the frames are then in the folder ``out``."""

    def run(*rows: dict[str, Any], **changes: Any) -> dict[str, Any]:
        file, out = tmp_path / "mine.jsonl", tmp_path / "out"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        out.mkdir(exist_ok=True)
        of_base = {name: changes.pop(name) for name in [*changes] if name in LocalBase.__dataclass_fields__}
        arguments = {"holdout": 0.0, **changes}
        return own_rollouts(file=file, base=LocalBase(base_model, **of_base), out=out, **arguments)

    return run


def frame(tmp_path: Path, name: str = "rollouts") -> pl.DataFrame:
    return pl.read_parquet(tmp_path / "out" / f"{name}.parquet")


def row(problem: str = "a", completion: str = "4", **changes: Any) -> dict[str, Any]:
    return {"problem_id": problem, "prompt": f"{problem}?", "completion": completion, "reward": 1, **changes}


def test_rows_are_tokenised_as_training_and_evaluation_do_it(take: Take, base_model: Path, tmp_path: Path) -> None:
    summary = take(
        row(answer="4", seed=7), row(completion=" cut", finish_reason="length", reward=0), row("b", "", reward=0)
    )
    found = frame(tmp_path)
    assert dict(found.schema) == ROLLOUTS
    turn = open_turn(base_model)
    assert found["prompt_ids"].to_list() == [turn.prompt(text) for text in ("a?", "a?", "b?")]
    assert found["completion_ids"].to_list() == [
        turn.answer("4"),
        turn.answer(" cut", closed=False),
        [turn.tokenizer.eos_token_id],
    ]
    assert found["given_reward"].to_list() == [1.0, 0.0, 0.0]
    assert found["answer"].to_list() == ["4", "4", None]
    assert found["seed"].to_list() == [7, 0, 0]
    assert summary == {
        "rows": 3, "problems": 2, "dropped_too_long": 0, "problems_lost": 0, "heldout_problems": 0, "max_length": 64,
        "with_logprobs": 0, "dropped_truncated": 0, "dropped_without_token": 0, "with_unknown_tokens": 0,
        "layout": "columns", "read_prompt": "prompt", "read_completion": "completion", "read_reward": "reward",
        "read_answer": "answer", "not_read": "nothing", "not_read_inside": "nothing",
    }  # fmt: skip
    assert dict(frame(tmp_path, "heldout").schema) == PROBLEMS
    assert frame(tmp_path, "heldout").is_empty()


def test_rows_beyond_the_limit_are_dropped_whole_and_counted(take: Take, tmp_path: Path) -> None:
    # The prompt "U: a?\nA: " has 9 tokens, the end token is one: 12 characters fill 22 tokens, 13 are too many. A
    # truncated completion has no end token: there 13 fit.
    summary = take(
        row(completion="x" * 12), row(completion="x" * 13), row("b", "x" * 40),
        row("c", "x" * 13, finish_reason="length"), max_length=22,
    )  # fmt: skip
    kept = frame(tmp_path)
    assert kept["completion"].to_list() == ["x" * 12, "x" * 13]
    assert (kept["prompt_ids"].list.len() + kept["completion_ids"].list.len()).to_list() == [22, 22]
    assert (summary["rows"], summary["dropped_too_long"], summary["problems_lost"]) == (2, 2, 1)
    assert summary["max_length"] == 22


def test_rows_that_are_all_too_long_are_bad_input(take: Take) -> None:
    with pytest.raises(InputError, match=r"^model\.max_length: all 2 rows of mine\.jsonl are longer than 20 tokens; "):
        take(row(completion="x" * 30), row("b", "x" * 31), max_length=20)


def test_a_limit_beyond_the_context_is_refused(take: Take) -> None:
    with pytest.raises(InputError, match=r"^model\.max_length: 65 tokens is beyond the model's context of 64"):
        take(row(), max_length=65)


def test_log_probabilities_are_kept_only_where_they_match_the_tokens(take: Take, tmp_path: Path) -> None:
    # "47" and the end token are three tokens; two numbers leave the end token's unknown; a cut row has no end token.
    take(
        row(completion="47", logprobs=[-1.0, -2.0, -0.5]), row(completion="47", logprobs=[-1.0, -2.0]),
        row(completion="47", logprobs=[-1.0, -2.0], finish_reason="length"), row(completion="47"),
    )  # fmt: skip
    assert frame(tmp_path)["logprobs"].to_list() == [[-1.0, -2.0, -0.5], None, [-1.0, -2.0], None]


def test_held_out_problems_are_not_trained_on(take: Take, tmp_path: Path) -> None:
    names = [f"p{i}" for i in range(20)]
    rows = [row(name, str(k), answer="4", reward=k) for name in names for k in (0, 1)]
    summary = take(*rows, holdout=0.25)
    held, kept = frame(tmp_path, "heldout"), frame(tmp_path)
    assert set(held["problem_id"]) == heldout_split(names, 0.25)
    assert set(kept["problem_id"]) == set(names) - set(held["problem_id"])
    assert (held.height, kept.height, summary["heldout_problems"]) == (5, 30, 5)
    assert held.select("split", "question", "answer", "solution").row(0) == (
        "heldout", held["problem_id"][0] + "?", "4", None
    )  # fmt: skip


def test_a_held_out_problem_without_gold_cannot_be_evaluated_on(take: Take, tmp_path: Path) -> None:
    rows = [row(f"p{i}", **({"answer": "4"} if i % 2 else {})) for i in range(20)]
    take(*rows, holdout=0.5)
    held = frame(tmp_path, "heldout")
    assert held["answer"].null_count() == 0
    assert 0 < held.height < 10
    assert all(int(name[1:]) % 2 for name in held["problem_id"])


def test_a_given_template_is_used(take: Take, tmp_path: Path, base_model: Path) -> None:
    take(row(), prompt_template="Q: {question}\n")
    assert frame(tmp_path)["prompt_ids"][0].to_list() == load_tokenizer(base_model)("Q: a?\n")["input_ids"]


def test_columns_are_named_and_the_summary_says_what_was_read(take: Take, tmp_path: Path) -> None:
    rows = [{"q": "a?", "solution": "reference", "said": ["4", "5"], "ok": [True, False], "answer": "4"}]
    summary = take(*rows, fields={"prompt": "q", "completions": "said", "reward": "ok"})
    assert frame(tmp_path).select("prompt", "completion", "given_reward").rows() == [("a?", "4", 1.0), ("a?", "5", 0.0)]
    read = ("q", "said", "ok", "answer", "solution")
    assert tuple(summary[f"read_{name}"] for name in ("prompt", "completion", "reward", "answer")) == read[:4]
    assert summary["not_read"] == read[4]


def test_a_prompt_with_a_special_token_of_the_base_is_refused(take: Take, base_model: Path, tmp_path: Path) -> None:
    token = load_tokenizer(base_model).eos_token
    assert len(token) > 2
    with pytest.raises(InputError, match=r"line 2, field `prompt`: expected the bare question, .*would be rendered ag"):
        take(row(), row("b", prompt=f"2 + 3?{token}"))
    assert take(row(), row("b", prompt=f"2 + 3?{token}"), prompt_template="{question}")["rows"] == 2


def test_progress_ends_at_the_last_row(take: Take) -> None:
    told: list[tuple[int, int]] = []
    take(
        *[row(completion=str(i)) for i in range(501)], progress=lambda done, total, note="": told.append((done, total))
    )
    assert told == [(500, 501), (501, 501)]


def test_an_instruction_is_in_the_prompt_and_no_part_of_the_question(
    take: Take, base_model: Path, tmp_path: Path
) -> None:
    take(row("a"), instruction="Be brief.")
    found = frame(tmp_path)
    assert found["prompt"].to_list() == ["a?"]
    assert found["prompt_ids"].to_list() == [open_turn(base_model).prompt("a?\nBe brief.")]
