"""Which problems the paths and the functions are measured on: the same, whatever asks for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tasks.core.errors import InputError
from tasks.core.frames import PROBLEMS
from tasks.geometry.paths.chosen import Chosen, choose
from tasks.geometry.paths.texts import as_texts
from tasks.models.turn import Turn, open_turn

SPLITS = {"rollouts": 2, "heldout": 8, "hard": 3, "gsm8k": 4}


@pytest.fixture(scope="module")
def turn(base_model: Path) -> Turn:
    return open_turn(base_model)


def write(file: Path, *splits: str) -> Path:
    """Problems of these splits; the first of each is too long for the context of 64, the last has no solution."""
    rows = [
        {
            "problem_id": f"{split}-{i}",
            "split": split,
            "question": "1 + 1? " * 9 if i == 0 else f"{i} + {i}?",
            "answer": str(2 * i),
            "solution": None if i == SPLITS[split] - 1 else f"so {2 * i}",
        }
        for split in splits
        for i in range(SPLITS[split])
    ]
    pl.DataFrame(rows, schema=PROBLEMS).write_parquet(file)
    return file


def chosen(turn: Turn, base: Path, file: Path, n: int = 100, tokens: int = 4, **changes: Any) -> Chosen:
    return choose(turn, base, file, n, tokens, **{"max_length": None, **changes})


def ids(found: Chosen) -> list[str]:
    return [problem.problem_id for problem in found.problems]


@pytest.mark.parametrize(
    ("splits", "split"),
    [
        (("rollouts", "heldout", "hard"), "heldout"),
        (("gsm8k", "hard", "heldout"), "heldout"),
        (("gsm8k", "hard"), "gsm8k"),  # a study judged by benchmarks alone: its first
        (("rollouts", "hard", "gsm8k"), "hard"),
    ],
)
def test_the_split_is_heldout_or_the_first_evaluated_one(
    turn: Turn, base_model: Path, tmp_path: Path, splits: tuple[str, ...], split: str
) -> None:
    found = chosen(turn, base_model, write(tmp_path / "p.parquet", *splits))
    assert (found.split, found.too_long) == (split, 1)
    assert sorted(ids(found)) == [f"{split}-{i}" for i in range(1, SPLITS[split])]


def test_fewer_problems_are_the_first_of_more_in_a_shuffled_order(turn: Turn, base_model: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "p.parquet", "heldout")
    every = ids(chosen(turn, base_model, file))
    assert every != sorted(every)
    assert ids(chosen(turn, base_model, file, 3)) == every[:3]
    turned = tmp_path / "turned.parquet"
    pl.read_parquet(file).reverse().write_parquet(turned)
    assert ids(chosen(turn, base_model, turned)) == every
    assert ids(chosen(turn, base_model, file, seed=1)) != every


def test_a_problem_fits_with_the_longest_of_its_answers(turn: Turn, base_model: Path, tmp_path: Path) -> None:
    r"""``U: 1 + 1?\nA: `` is 13 tokens; behind it ``\boxed{2}`` and the end are 10, ``so 2`` and the end 5."""
    file = write(tmp_path / "p.parquet", "heldout")
    assert len(ids(chosen(turn, base_model, file, max_length=24))) == 7
    two_digits = {"heldout-5", "heldout-6", "heldout-7"}  # golds 10, 12, 14: one token more
    assert set(ids(chosen(turn, base_model, file, max_length=23))) == {f"heldout-{i}" for i in range(1, 5)}
    assert not two_digits & set(ids(chosen(turn, base_model, file, max_length=23)))
    assert len(ids(chosen(turn, base_model, file, tokens=12, max_length=25))) == 7
    with pytest.raises(InputError, match=r"^problems: none of the 8 problems of heldout fits 24 tokens with an answer"):
        chosen(turn, base_model, file, tokens=12, max_length=24)


def test_a_box_stands_for_an_unknown_solution(turn: Turn, base_model: Path, tmp_path: Path) -> None:
    found = chosen(turn, base_model, write(tmp_path / "p.parquet", "heldout"))
    texts = dict(zip(ids(found), as_texts(turn, found), strict=True))
    assert spelled(turn, texts["heldout-7"].solution) == "\\boxed{14}<eos>"
    assert spelled(turn, texts["heldout-1"].solution) == "so 2<eos>"
    assert spelled(turn, texts["heldout-1"].prompt) == "U: 1 + 1?\nA: "


def spelled(turn: Turn, ids: list[int]) -> str:
    return "".join(turn.tokenizer.convert_ids_to_tokens(ids))


def test_no_problem_at_all_is_refused(turn: Turn, base_model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of the 0 problems of heldout"):
        chosen(turn, base_model, write(tmp_path / "p.parquet", "rollouts"))
    with pytest.raises(InputError, match=r"^n: 0 problems asked for; need at least 1$"):
        chosen(turn, base_model, write(tmp_path / "p.parquet", "heldout"), 0)
