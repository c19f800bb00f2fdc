"""Rollouts for bases whose turns are not plain: what a row begins and ends with, from a file and from a teacher."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tasks.core.errors import InputError
from tasks.core.frames import COMPLETIONS, PROBLEMS
from tasks.core.results import LocalBase
from tasks.models.tokenizer import tokenizer_digest
from tasks.models.turn import open_turn
from tasks.rollouts.own import own_rollouts, taught_rollouts
from tasks.rollouts.teacher import TEACHER
from tests.lab.families import FAMILIES, Family, write_parrot

THINKING = FAMILIES["qwen3 thinking"]
PLAIN = replace(THINKING, chat=THINKING.chat.replace("<think>\n{% endif %}", "{% endif %}"),
                prompt=THINKING.prompt.removesuffix("<think>\n"), opens="")  # fmt: skip
"""The same tokenizer, and a prompt that begins nothing."""


def base(folder: Path, family: Family) -> Path:
    return write_parrot(family, "A: 7", "9", folder)


def spelled(folder: Path, ids: list[int]) -> str:
    return "".join(open_turn(folder).tokenizer.convert_ids_to_tokens(ids))


def test_a_files_rows_think_once_and_end_as_the_templates_turns_do(tmp_path: Path) -> None:
    model = base(tmp_path / "base", THINKING)
    thought = "<think>\nso\n</think>\n\nIt is 2."
    rows = [
        {"problem_id": "a", "prompt": "Q?", "answer": "2", "completion": text, "reward": 1}
        for text in (thought, "so\n</think>\n\nIt is 2.", f"{thought}<|endoftext|>")
    ]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own_rollouts(file=tmp_path / "r.jsonl", base=LocalBase(model), holdout=0.0, out=tmp_path)
    found = pl.read_parquet(tmp_path / "rollouts.parquet")
    whole = [spelled(model, [*p, *c]) for p, c in found.select("prompt_ids", "completion_ids").iter_rows()]
    assert whole == [f"{THINKING.prompt}so\n</think>\n\nIt is 2.<|im_end|>"] * 3


def taught(tmp_path: Path, model: Path, opened: str, rows: list[dict[str, Any]]) -> pl.DataFrame:
    """What ``model`` makes of completions of a teacher with its tokenizer, whose prompt ``opened`` this."""
    spoken = {"tokenizer": tokenizer_digest(open_turn(model).tokenizer), **({"opens": opened} if opened else {})}
    (tmp_path / TEACHER).write_text(json.dumps(spoken))
    ids = open_turn(model).tokenizer.convert_tokens_to_ids
    common = {"problem_id": "a", "prompt": "Q?", "answer": "2", "seed": 0, "finish_reason": "stop"}
    frame = [
        {**common, "rollout_id": i, "completion": row["text"], "completion_ids": ids(row["tokens"]),
         "logprobs": [-float(n) for n in range(len(row["tokens"]))]}
        for i, row in enumerate(rows)
    ]  # fmt: skip
    pl.DataFrame(frame, schema=COMPLETIONS).write_parquet(tmp_path / "completions.parquet")
    pl.DataFrame(schema=PROBLEMS).write_parquet(tmp_path / "aside.parquet")
    out = tmp_path / "out"
    out.mkdir()
    taught_rollouts(completions=tmp_path, heldout=tmp_path / "aside.parquet", base=LocalBase(model), out=out)
    return pl.read_parquet(out / "rollouts.parquet")


SAID = {"text": "so</think>2", "tokens": ["s", "o", "</think>", "2", "<|im_end|>"]}
THOUGHT = {"text": "<think>\nso", "tokens": ["<think>", "\n", "s", "o", "<|im_end|>"]}
ELSE = {"text": "so", "tokens": ["s", "o", "<|endoftext|>"]}


def test_a_teachers_thought_is_opened_once_whoever_opens_it(tmp_path: Path) -> None:
    """Base and teacher both open: nothing changes. Only the base: what the teacher said twice is left off, with its
    log-probabilities; an answer that ended otherwise has the base's end and none."""
    model = base(tmp_path / "base", THINKING)
    found = taught(tmp_path, model, "<think>\n", [SAID])
    assert spelled(model, found["completion_ids"][0].to_list()) == "so</think>2<|im_end|>"
    assert found["logprobs"][0].to_list() == [0.0, -1.0, -2.0, -3.0, -4.0]
    (tmp_path / "b").mkdir()
    found = taught(tmp_path / "b", model, "", [THOUGHT, ELSE])
    assert [spelled(model, ids) for ids in found["completion_ids"].to_list()] == ["so<|im_end|>"] * 2
    assert found["logprobs"].to_list() == [[-2.0, -3.0, -4.0], None]


def test_what_only_the_teachers_prompt_opened_is_part_of_the_answer(tmp_path: Path) -> None:
    model = base(tmp_path / "base", PLAIN)
    found = taught(tmp_path, model, "<think>\n", [SAID])
    assert spelled(model, found["completion_ids"][0].to_list()) == "<think>\nso</think>2<|im_end|>"
    assert found["logprobs"].to_list() == [None]


def test_a_rendered_prompt_is_refused(tmp_path: Path) -> None:
    model = base(tmp_path / "base", PLAIN)
    row = {"problem_id": "a", "prompt": "<|im_start|>user\nQ?<|im_end|>", "completion": "2", "answer": "2", "reward": 1}
    (tmp_path / "r.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError, match=r"line 1, field `prompt`: expected the bare question, got a rendered"):
        own_rollouts(file=tmp_path / "r.jsonl", base=LocalBase(model), holdout=0.0, out=tmp_path)
