"""One sentence behind every question: where it is put, where it is already, and that it makes no other question."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from tasks.core.errors import InputError
from tasks.core.frames import PROBLEMS
from tasks.core.results import ArtifactRef, ModelRef
from tasks.core.rows import Row
from tasks.problems.benchmarks import BOXED, Loaded, open_heldout
from tasks.problems.files import Layout, Problems, collect
from tasks.problems.overlap import INSTRUCTIONS, instructed
from tasks.problems.own import own_problems

BOX = INSTRUCTIONS[0]
OWN = "Answer with a number alone."


@pytest.mark.parametrize(
    ("question", "instruction", "asked"),
    [
        ("1 + 1?", None, "1 + 1?"),
        ("1 + 1?", OWN, f"1 + 1?\n{OWN}"),
        ("1 + 1?", BOX, f"1 + 1?\n{BOX}"),
        (f"1 + 1?\n{BOX}", BOX, f"1 + 1?\n{BOX}"),
        (f"{OWN} 1 + 1?", OWN, f"{OWN} 1 + 1?"),
        (f"1 + 1? {BOX}", OWN, f"1 + 1? {BOX}"),  # of another, known one: it was asked for an answer's form already
        ("{question}", BOX, BOXED),  # of a template it is the template
    ],
)
def test_a_question_is_instructed_once(question: str, instruction: str | None, asked: str) -> None:
    assert instructed(question, instruction) == asked


def rollouts(folder: Path, *prompts: str) -> Path:
    folder.mkdir()
    pl.DataFrame({"prompt": list(prompts)}).write_parquet(folder / "rollouts.parquet")
    held = [("h", "heldout", "3 + 3?", "6", None)]
    pl.DataFrame(held, schema=PROBLEMS, orient="row").write_parquet(folder / "heldout.parquet")
    return folder


def loaded(*questions: str, template: str = "{question}") -> Loaded:
    rows = [Row(f"line {i}", {"question": question, "answer": "1"}) for i, question in enumerate(questions)]
    return Loaded("x", template, "x.jsonl", Problems(collect(rows, "x.jsonl", Layout(template=template)).frame))


def test_held_out_problems_are_asked_with_it_and_told_apart_without(tmp_path: Path) -> None:
    """Also where the rollouts carry it themselves."""
    folder = rollouts(tmp_path / "r", f"1 + 1?\n{OWN}", "2 + 2?")
    found = own_problems(
        given=loaded("1 + 1?", "2 + 2?", "4 + 4?"), rollouts=folder, n=9, out=tmp_path, instruction=OWN,
        benchmarks=[loaded("5 + 5?"), loaded("6 + 6?", template=BOXED)],
    )  # fmt: skip
    asked = pl.read_parquet(tmp_path / "problems.parquet")["question"].to_list()
    assert asked == [f"4 + 4?\n{OWN}", f"5 + 5?\n{OWN}", f"6 + 6?\n{BOX}"]
    assert (found["heldout"], found["shared_with_rollouts_dropped"], found["overlap"]) == (1, 2, 0)
    assert found["heldout_template"] == f"{{question}}\n{OWN}"
    assert found["x.template"] == BOXED  # the last of that name


def test_without_one_nothing_changes(tmp_path: Path) -> None:
    found = own_problems(given=None, rollouts=rollouts(tmp_path / "r", "1 + 1?"), n=9, out=tmp_path)
    assert pl.read_parquet(tmp_path / "problems.parquet")["question"].to_list() == ["3 + 3?"]
    assert "heldout_template" not in found


def test_keys_of_models_without_one_stay(tmp_path: Path) -> None:
    ref = ArtifactRef("u", "s", "k", "")
    assert "instruction" not in ModelRef(ref).identity
    assert ModelRef(ref, instruction=OWN).identity == {**ModelRef(ref).identity, "instruction": OWN}


# --- what evaluation.problems names ---------------------------------------------------------------------------------


def test_a_set_of_prompts_can_be_held_out_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLINEAR_DATA", str(tmp_path))
    (tmp_path / "gsm8k").mkdir()
    lines = [json.dumps({"question": f"{i} + 1?", "answer": f"It is so.\n#### {i + 1}"}) for i in range(5)]
    (tmp_path / "gsm8k" / "train.jsonl").write_text("\n".join(lines))
    given = open_heldout("gsm8k-train")
    assert (given.problems.frame.height, given.template, given.source) == (5, BOXED, "gsm8k/train.jsonl")
    folder = rollouts(tmp_path / "r", "1 + 1?", "3 + 1?")
    found = own_problems(given=given, rollouts=folder, n=9, out=tmp_path, instruction=BOX)
    frame = pl.read_parquet(tmp_path / "problems.parquet")
    assert sorted(frame["question"]) == [f"{i} + 1?\n{BOX}" for i in (0, 2, 4)]
    assert frame["split"].unique().to_list() == ["heldout"]
    assert (found["shared_with_rollouts_dropped"], found["heldout_template"]) == (2, BOXED)


def test_a_benchmark_has_a_place_of_its_own() -> None:
    with pytest.raises(InputError) as error:
        open_heldout("gsm8k")
    assert str(error.value) == "evaluation.problems: 'gsm8k' is a benchmark; set evaluation.benchmarks=gsm8k"
