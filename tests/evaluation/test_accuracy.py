from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from tasks.contracts import ACCURACY, ITEMS, MCNEMAR, InputError
from tasks.evaluation.accuracy import accuracy_table, mcnemar_table
from tasks.evaluation.intervals import holm, wilson


def answers(run: str, marks: str, benchmark: str = "heldout", **columns: Any) -> list[dict[str, Any]]:
    """One answer a problem: "1" right, "0" wrong."""
    return [
        {
            "run": run,
            "method": run,
            "seed": 0,
            "data_seed": 0,
            "lr": 1e-3,
            "benchmark": benchmark,
            "problem_id": f"p{i}",
            "sample": 0,
            "completion": "x",
            "prediction": "4",
            "gold": "4",
            "correct": mark == "1",
            "finish_reason": "stop",
            "answer_nll": None,
            "answer_tokens": None,
            **columns,
        }
        for i, mark in enumerate(marks)
    ]


def frame(*parts: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame([row for part in parts for row in part], schema=ITEMS)


def test_accuracy_rows_put_the_base_first_in_each_benchmark() -> None:
    items = frame(
        answers("sft", "1101"), answers("base", "1000"), answers("sft", "00", "hard"), answers("base", "10", "hard")
    )
    table = accuracy_table(items)
    assert dict(table.schema) == ACCURACY
    assert table.select("benchmark", "run", "n", "correct", "accuracy").rows() == [
        ("heldout", "base", 4, 1, 0.25),
        ("heldout", "sft", 4, 3, 0.75),
        ("hard", "base", 2, 1, 0.5),
        ("hard", "sft", 2, 0, 0.0),
    ]
    assert table.select("low", "high").row(1) == wilson(3, 4)


def test_unparsed_truncated_and_token_weighted_loss() -> None:
    rows = answers("sft", "1000", answer_nll=6.0, answer_tokens=4)
    rows[1] |= {"prediction": None, "finish_reason": "length"}
    rows[2] |= {"prediction": None, "answer_nll": 2.0, "answer_tokens": 16}
    rows[3] |= {"answer_nll": None, "answer_tokens": None}
    table = accuracy_table(frame(rows, answers("dpo", "1")))
    # (6 + 6 + 2) nats over (4 + 4 + 16) tokens.
    assert table.select("unparsed", "truncated").rows() == [(2, 1), (0, 0)]
    assert table["answer_loss"].to_list() == [pytest.approx(14 / 24, rel=1e-15), None]


def test_mcnemar_counts_every_pair_by_hand() -> None:
    items = frame(answers("sft", "11100000"), answers("dpo", "10011111"), answers("base", "11000000"))
    table = mcnemar_table(items)
    assert dict(table.schema) == MCNEMAR
    assert table.select("run_a", "run_b", "n", "only_a", "only_b", "both", "neither", "difference").rows() == [
        ("base", "sft", 8, 0, 1, 2, 5, -0.125),
        ("base", "dpo", 8, 1, 5, 1, 1, -0.5),
        ("sft", "dpo", 8, 2, 5, 1, 0, -0.375),
    ]
    # 0/1: p = 1; 1/5: 2 (1 + 6) / 2^6 = .21875; 2/5: 2 (1 + 7 + 21) / 2^7 = .453125.
    assert table["p_value"].to_list() == pytest.approx([1.0, 0.21875, 0.453125], rel=1e-12)
    # Holm over three pairs: .21875 * 3 = .65625, .453125 * 2 = .90625, 1.
    assert table["p_holm"].to_list() == pytest.approx([1.0, 0.65625, 0.90625], rel=1e-12)


def test_holm_is_within_one_benchmark() -> None:
    parts = [
        answers(run, marks, benchmark)
        for benchmark in ("heldout", "hard")
        for run, marks in (("base", "1111110"), ("sft", "0000001"), ("dpo", "0000000"))
    ]
    table = mcnemar_table(frame(*parts))
    assert len(table) == 6
    for _, rows in table.group_by("benchmark", maintain_order=True):
        assert rows["p_holm"].to_list() == holm(rows["p_value"]).tolist()
    assert table.filter(benchmark="heldout").drop("benchmark").equals(table.filter(benchmark="hard").drop("benchmark"))


def test_answers_are_matched_by_problem_and_sample_not_by_position() -> None:
    a, b = answers("base", "1100"), answers("sft", "1010")
    second = [{**row, "sample": 1, "correct": True} for row in a[:2]]
    expected = mcnemar_table(frame(a, b))
    assert mcnemar_table(frame(a, second, b[::-1])).equals(expected)
    assert mcnemar_table(frame(a, b[:3]))["n"].to_list() == [3]


def test_one_run_has_no_pair() -> None:
    table = mcnemar_table(frame(answers("base", "10")))
    assert (dict(table.schema), len(table)) == (MCNEMAR, 0)


def test_bad_items_are_named() -> None:
    rows = answers("sft", "10")
    with pytest.raises(InputError, match="correct is null for run sft, problem p1"):
        accuracy_table(frame([rows[0], {**rows[1], "correct": None}]))
    with pytest.raises(InputError, match="run sft answers heldout problem p0, sample 0 more than once"):
        mcnemar_table(frame(rows, rows[:1]))
    with pytest.raises(InputError, match="base and sft share no answer on heldout"):
        mcnemar_table(frame(rows[:1], answers("base", "11")[1:]))
    with pytest.raises(InputError, match="no answers"):
        accuracy_table(frame())
    with pytest.raises(InputError, match=r"missing columns \['gold'\]"):
        accuracy_table(frame(rows).drop("gold"))
