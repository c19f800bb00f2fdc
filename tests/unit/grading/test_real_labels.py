"""Our grades against the labels of two real rollout sets: at least 99.8 % each; every disagreement is documented."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest

from tasks.grading.grade import Agreement, Grade, agreement, grade_many
from tasks.rollouts.files import read_rollouts
from tests.lab.real_problems import real_data

PAGE = Path(__file__).parents[3] / "docs" / "grading.md"
SETS = {"GSM8K": "gsm8k/model_solutions.jsonl", "MATH": "rollouts_math/qwen25math_100x8.jsonl"}


def measured(name: str) -> tuple[pl.DataFrame, list[Grade], Agreement]:
    frame = read_rollouts(real_data(SETS[name]))
    grades = grade_many(frame["completion"].to_list(), frame["answer"].to_list())
    return frame, grades, agreement(frame["reward"].to_list(), grades)


def rows_of(heading: str) -> list[list[str]]:
    """The cells of the page's table under the header row that starts with ``heading``, code marks taken off."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().strip("`") for cell in line.strip("|").split(" | ")])
    return rows


@pytest.mark.parametrize(("name", "labelled", "agree"), [("GSM8K", 5276, 5276), ("MATH", 800, 799)])
def test_agreement_is_what_the_page_says(name: str, labelled: int, agree: int) -> None:
    _, grades, found = measured(name)
    assert (found.n, found.agree) == (labelled, agree)
    assert found.share is not None
    assert found.share >= 0.998
    unread = sum(grade.extracted is None for grade in grades)
    unread_golds = sum(not grade.gold_parsed for grade in grades)
    row = next(row for row in rows_of("rollouts") if row[0].startswith(name))
    share = f"{100 * found.share:g} %"
    assert row[1:] == [f"{labelled:,}", f"{agree:,}", share, str(unread), str(unread_golds)]


def test_every_disagreement_is_listed() -> None:
    listed = []
    for name in SETS:
        frame, grades, found = measured(name)
        for index in found.disagreements:
            row = frame.row(index, named=True)
            label = f"{row['reward']:g}"
            listed.append([row["problem_id"], str(row["rollout_id"]), label, row["answer"], grades[index].extracted])
    table = rows_of("problem")
    assert [row[:5] for row in table] == listed
    assert all(row[5] for row in table)


_NUMBER = re.compile(r"-?\$?\d+(?:,\d{3})*(?:\.\d+)?")


def label_at_fault(completion: str, gold: str, label: float) -> bool:
    """Whether a label compares something else than the answer: the first number of the last box, else of the last
    sentence, without its sign, its separators and what follows.

    So a label of 0 says nothing where the gold is the last number there, and is negative, has separators or others
    before it; a label of 1 nothing where the only number there is the gold's negative. Read from text and label alone.
    """
    boxes = re.findall(r"boxed\{([^{}]*)\}", completion)
    closing = boxes[-1] if boxes else re.split(r"[.!?]\s", completion.rstrip().rsplit("\n", 1)[-1])[-1]
    found = [float(number.replace("$", "").replace(",", "")) for number in _NUMBER.findall(closing)]
    value = float(gold)
    if label == 0 and found:
        return found[-1] == value and (len(found) > 1 or value < 0 or "," in closing)
    return value > 0 and found == [-value]


@pytest.mark.parametrize(
    ("name", "aside", "agree", "differ"),
    [("gpt-3.5-turbo", 50, 5213, 4), ("gpt-4o-mini-2024-07-18", 0, 5276, 0)],
)
def test_teachers_are_graded_as_they_are_labelled(name: str, aside: int, agree: int, differ: int) -> None:
    """At least 99.7 % of the labels that compare the answer; docs/grading.md lists the four others."""
    frame = read_rollouts(real_data(f"gsm8k_gpt/{name}.jsonl"))
    completions, golds, labels = (frame[column].to_list() for column in ("completion", "answer", "reward"))
    kept = [i for i in range(frame.height) if not label_at_fault(completions[i], golds[i], labels[i])]
    grades = grade_many([completions[i] for i in kept], [golds[i] for i in kept])
    found = agreement([labels[i] for i in kept], grades)
    assert (frame.height - len(kept), found.agree, found.n - found.agree) == (aside, agree, differ)
    assert found.share is not None
    assert found.share >= 0.997
