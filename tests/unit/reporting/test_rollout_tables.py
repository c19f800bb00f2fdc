from __future__ import annotations

from dataclasses import replace
from typing import Any

import polars as pl

from tasks.reporting.tables.record import rollout_record, rollout_tables
from tasks.reporting.views.study import Study


def graded(*rows: tuple[str, int, float]) -> pl.DataFrame:
    """(problem, tokens, reward) as rows of what is read of GRADED."""
    return pl.DataFrame(
        [
            {"problem_id": problem, "prompt": f"q {problem}", "completion": f"{problem}{i}", "answer": "7",
             "completion_ids": [0] * tokens, "extracted": "7" if reward else None, "reward": reward}
            for i, (problem, tokens, reward) in enumerate(rows)
        ],
        schema_overrides={"extracted": pl.String},
    )  # fmt: skip


ROWS = (("a", 2, 1.0), ("a", 4, 1.0), ("b", 6, 0.0), ("b", 8, 1.0), ("b", 9, 0.0), ("c", 1, 0.0), ("c", 5, 0.0))


def texts(table: Any) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def test_lengths_and_groups_are_counted_by_hand(study: Study) -> None:
    record = rollout_record(graded(*ROWS))
    assert record["right_of_group"] == {"0": 1, "1": 1, "2": 1}
    (counts, lengths), _ = rollout_tables(replace(study, record={**study.record, "rollouts_seen": record}))
    assert "0 right: 1, 1 right: 1, 2 right: 1" in counts.note
    # all: 1 2 4 5 6 8 9, sum 35; right: 2 4 8; wrong: 1 5 6 9
    assert texts(lengths)[0] == ["All", "7", "5.0", "1", "5", "8", "9"]
    assert texts(lengths)[1][:5] == ["Right", "3", "4.7", "2", "4"]
    assert texts(lengths)[2][:4] == ["Wrong", "4", "5.2", "1"]


def test_examples_are_one_right_and_one_wrong_answer_of_mixed_groups(study: Study) -> None:
    record = rollout_record(graded(*ROWS))
    _, (examples,) = rollout_tables(replace(study, record={**study.record, "rollouts_seen": record}))
    assert texts(examples) == [["q b", "b3", "right", "7", "7", "8"], ["q b", "b2", "wrong", "nothing", "7", "6"]]


def test_without_mixed_groups_the_first_problems_are_shown() -> None:
    """First by id, whatever the order of the rows."""
    record = rollout_record(graded(*((name, 1, 1.0) for name in "zycab")))
    assert [one["completion"] for one in record["examples"]] == ["a3", "b4", "c2"]


def test_of_many_mixed_groups_the_first_by_id_are_shown() -> None:
    record = rollout_record(graded(*((name, 1, reward) for name in "zyxba" for reward in (0.0, 1.0))))
    assert [one["completion"] for one in record["examples"]] == ["a9", "a8", "b7", "b6", "x5", "x4"]


def test_how_the_file_was_read_comes_first(study: Study) -> None:
    read = {"layout": "columns", "question": "prompt", "columns that were not read": "gold, uuid"}
    (counts, *_), _ = rollout_tables(replace(study, rollouts={**study.rollouts, "read": read}))
    assert texts(counts)[:3] == [
        ["Read: layout", "columns"], ["Read: question", "prompt"], ["Read: columns that were not read", "gold, uuid"]
    ]  # fmt: skip
    assert len([line for line in texts(counts) if line[0].startswith("Read")]) == 3


def test_a_study_of_before_has_counts_alone(study: Study) -> None:
    shown, examples = rollout_tables(study)
    assert ([table.key for table in shown], examples) == (["rollouts"], [])
