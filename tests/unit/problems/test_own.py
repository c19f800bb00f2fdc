"""Choosing the held-out problems of a study on own rollouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tasks.core.errors import InputError
from tasks.core.frames import PROBLEMS
from tasks.core.rows import Row
from tasks.problems.benchmarks import BOXED, Loaded, open_heldout
from tasks.problems.files import Layout, Problems, collect
from tasks.problems.own import own_problems


def rollouts(folder: Path, prompts: list[str], held: list[tuple[str, str]]) -> Path:
    folder.mkdir()
    pl.DataFrame({"prompt": prompts}).write_parquet(folder / "rollouts.parquet")
    rows = [(f"h{i}", "heldout", question, answer, None) for i, (question, answer) in enumerate(held)]
    pl.DataFrame(rows, schema=PROBLEMS, orient="row").write_parquet(folder / "heldout.parquet")
    return folder


def file(path: Path, questions: list[str]) -> Path:
    path.write_text("".join(json.dumps({"question": question, "answer": "1"}) + "\n" for question in questions))
    return path


def choose(
    tmp_path: Path, n: int = 100, *, file: Path | None = None, **sources: Any
) -> tuple[pl.DataFrame, dict[str, Any]]:
    (tmp_path / "out").mkdir(exist_ok=True)
    given = open_heldout(str(file)) if file else None
    summary = own_problems(given=given, n=n, out=tmp_path / "out", **sources)
    return pl.read_parquet(tmp_path / "out" / "problems.parquet"), summary


def test_without_a_file_the_share_that_the_rollouts_held_out_is_taken(tmp_path: Path) -> None:
    folder = rollouts(tmp_path / "r", ["trained"], [("x", "1"), ("y", "2")])
    found, summary = choose(tmp_path, file=None, rollouts=folder)
    assert dict(found.schema) == PROBLEMS
    assert set(found.select("question", "answer").rows()) == {("x", "1"), ("y", "2")}
    assert summary == {"heldout": 2, "available": 2, "shared_with_rollouts_dropped": 0, "overlap": 0}


def test_a_file_is_taken_instead_and_what_was_trained_on_is_left_out(tmp_path: Path) -> None:
    folder = rollouts(tmp_path / "r", ["How  many\napples?", "b"], [("x", "1")])
    source = file(tmp_path / "mine.jsonl", ["how many APPLES? ", "new", "B", "other"])
    found, summary = choose(tmp_path, file=source, rollouts=folder)
    assert set(found["question"]) == {"new", "other"}
    assert found["split"].unique().to_list() == ["heldout"]
    assert summary == {"heldout": 2, "available": 2, "shared_with_rollouts_dropped": 2, "overlap": 0}


def test_the_choice_does_not_depend_on_the_files_order_and_grows(tmp_path: Path) -> None:
    folder = rollouts(tmp_path / "r", ["trained"], [])
    questions = [f"question {i}" for i in range(200)]
    forward, summary = choose(tmp_path, 50, file=file(tmp_path / "f.jsonl", questions), rollouts=folder)
    backward, _ = choose(tmp_path, 50, file=file(tmp_path / "b.jsonl", questions[::-1]), rollouts=folder)
    more, _ = choose(tmp_path, 80, file=file(tmp_path / "f.jsonl", questions), rollouts=folder)
    assert forward["question"].to_list() == backward["question"].to_list() == more["question"].to_list()[:50]
    assert (summary["heldout"], summary["available"]) == (50, 200)
    assert forward["question"].to_list() != questions[:50]  # a hash chooses, not the order


@pytest.mark.parametrize(("held", "given"), [([], None), ([("Trained ", "1")], None), ([("x", "1")], ["trained"])])
def test_nothing_left_is_refused_with_the_way_out(
    tmp_path: Path, held: list[tuple[str, str]], given: list[str] | None
) -> None:
    folder = rollouts(tmp_path / "r", ["trained"], held)
    source = file(tmp_path / "mine.jsonl", given) if given else None
    with pytest.raises(InputError, match=r"^evaluation\.problems: no held-out problem .*raise rollouts\.holdout$"):
        choose(tmp_path, file=source, rollouts=folder)


def benchmark(name: str, questions: list[str]) -> Loaded:
    rows = [Row(f"row {i}", {"id": i, "question": question, "answer": "1"}) for i, question in enumerate(questions)]
    problems = Problems(collect(rows, name, Layout(split=name, template=BOXED)).frame)
    return Loaded(name, BOXED, "somewhere", problems)


def test_benchmarks_are_added_and_what_was_trained_on_is_left_out_whatever_sentence_asked_it(tmp_path: Path) -> None:
    sentence = BOXED.removeprefix("{question}")
    folder = rollouts(tmp_path / "r", ["a", f"B{sentence}"], [("x", "1"), ("y", "2")])
    found, summary = choose(
        tmp_path, 2, file=None, rollouts=folder, benchmarks=[benchmark("one", list("abcde")), benchmark("two", ["z"])]
    )
    assert found.group_by("split").len().sort("split").rows() == [("heldout", 2), ("one", 2), ("two", 1)]
    asked = found.filter(split="one")["question"]
    assert set(asked) < {f"{letter}{sentence}" for letter in "cde"}
    assert set(found.filter(split="heldout")["question"]) == {"x", "y"}
    assert summary == {
        "heldout": 2, "available": 2, "shared_with_rollouts_dropped": 2, "overlap": 0,
        "one.n": 2, "one.template": BOXED, "one.source": "somewhere", "one.shared_with_rollouts_dropped": 2,
        "two.n": 1, "two.template": BOXED, "two.source": "somewhere", "two.shared_with_rollouts_dropped": 0,
    }  # fmt: skip


def test_benchmarks_alone_are_enough_and_one_that_was_trained_on_whole_is_refused(tmp_path: Path) -> None:
    folder = rollouts(tmp_path / "r", ["a", "b"], [])
    found, summary = choose(tmp_path, file=None, rollouts=folder, benchmarks=[benchmark("one", ["c"])])
    assert found["split"].to_list() == ["one"]
    assert summary["heldout"] == 0
    with pytest.raises(InputError, match=r"^evaluation\.benchmarks: all 2 problems of one are among the rollouts"):
        choose(tmp_path, file=None, rollouts=folder, benchmarks=[benchmark("one", ["A", "b"])])
