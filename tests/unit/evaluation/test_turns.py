"""A chat model whose turns end with another token than its tokenizer's: what it says counts, and nothing after it."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from tasks.core.frames import PROBLEMS
from tasks.core.results import LocalBase, RunInfo
from tasks.core.sections import EvaluationSpec
from tasks.evaluation.evaluate import Asked, collect, evaluate_models
from tests.lab.families import FAMILIES, write_parrot

BASE = RunInfo("base", "base", 0, 0, 0.0)


@pytest.mark.parametrize("name", ["gemma 3", "phi 4", "llama 3", "glm 4"])
def test_a_model_that_answers_right_and_ends_its_turn_is_right(tmp_path: Path, name: str) -> None:
    """It says 7 and ends its turn; whoever does not stop there reads on: 7999..."""
    base = write_parrot(FAMILIES[name], "A: 7", "9", tmp_path / "base")
    rows = [(f"p{i}", "heldout", f"What is {i} + {7 - i}?", "7", None) for i in range(8)]
    problems = tmp_path / "problems.parquet"
    pl.DataFrame(rows, schema=PROBLEMS, orient="row").write_parquet(problems)
    (tmp_path / "partial").mkdir()
    evaluate_models(
        base=LocalBase(base), asked=[Asked(BASE)], partials=[tmp_path / "partial"], problems=problems, share=(0, 1),
        spec=EvaluationSpec(max_new_tokens=12, samples=1),
    )  # fmt: skip
    found = collect(tmp_path / "partial", pl.read_parquet(problems))
    assert found.select("completion", "finish_reason", "correct").unique().rows() == [("A: 7", "stop", True)]
    assert found.height == 16
    # \boxed{7} and the token that ends the turn
    assert found["answer_tokens"].drop_nulls().unique().to_list() == [len(r"\boxed{7}") + 1]
