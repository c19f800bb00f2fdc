from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
import pytest

from tasks.core.errors import InputError
from tasks.core.frames import ACCURACY, ITEMS, MCNEMAR
from tasks.core.results import DIFFERS, EQUAL, NO_POWER
from tasks.evaluation.accuracy import accuracy_table, families, mcnemar_table
from tasks.evaluation.intervals import holm, paired_interval, share_interval, wilson
from tasks.evaluation.power import detectable_difference, verdict
from tasks.evaluation.replicates import method_interval, training_spread


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


def test_several_drawn_answers_to_a_problem_are_not_independent() -> None:
    parts = [answers("sft", marks, sample=sample) for sample, marks in enumerate(("110", "100", "101"), 1)]
    table = accuracy_table(frame(*parts, answers("base", "110", sample=1))).sort("run", descending=True)
    assert table.select("run", "n", "correct", "accuracy").rows() == [
        ("sft", 9, 5, pytest.approx(5 / 9, rel=1e-15)),
        ("base", 3, 2, 2 / 3),
    ]
    clustered = share_interval([1, 1 / 3, 1 / 3], seed=0)
    assert table.select("low", "high").rows() == [(clustered.low, clustered.high), wilson(2, 3)]
    # The same three answers to each of 100 problems say as much as one, not as much as 300 independent ones.
    repeated = [answers("sft", "1100100101" * 10, sample=sample) for sample in (1, 2, 3)]
    low, high = accuracy_table(frame(*repeated)).select("low", "high").row(0)
    once, thrice = wilson(50, 100), wilson(150, 300)
    assert high - low == pytest.approx(once[1] - once[0], rel=0.05)
    assert high - low > 1.5 * (thrice[1] - thrice[0])


def test_each_problem_counts_the_same_where_samples_differ() -> None:
    # p0 is right in 1 of 1, p1 in 0 of 2: (1 + 0) / 2, not 1 of 3.
    items = frame(answers("sft", "10", sample=1), answers("sft", "00", sample=2)[1:])
    assert accuracy_table(items).select("n", "correct", "accuracy").row(0) == (3, 1, 0.5)


def test_drawn_answers_do_not_count_beside_greedy_ones() -> None:
    greedy = [answers("base", "1100"), answers("sft", "1010", answer_nll=6.0, answer_tokens=4)]
    drawn = [answers(run, "0001", sample=sample, prediction=None) for run in ("base", "sft") for sample in (1, 2)]
    only_drawn = answers("dpo", "0001", sample=1)
    expected = accuracy_table(frame(*greedy, only_drawn))
    assert accuracy_table(frame(*greedy, *drawn, only_drawn)).equals(expected)
    assert expected.select("run", "n", "correct").rows() == [("base", 4, 2), ("sft", 4, 2), ("dpo", 4, 1)]


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
    # Mid-p, less P(X = fewer): 1 - 1/2, .21875 - 6/64, .453125 - 21/128.
    assert table["p_mid"].to_list() == pytest.approx([0.5, 0.125, 0.2890625], rel=1e-12)
    # Two pairs with the base: .21875 * 2 = .4375, 1; one pair of methods: itself.
    assert table["family"].to_list() == ["base", "base", "methods"]
    assert table["p_holm"].to_list() == pytest.approx([1.0, 0.4375, 0.453125], rel=1e-12)
    assert table.select("low", "high").row(1) == paired_interval(1, 5, 8)
    assert table.select("repeats", "training_sd", "method_low", "method_high").null_count().row(0) == (3, 3, 3, 3)


def test_verdicts_stand_beside_what_could_be_found() -> None:
    # 1,000 problems; sft loses 60 and gains 10, dpo swaps 2, dft (100 problems) swaps 2.
    base = "1" * 500 + "0" * 500
    sft, dpo = "0" * 60 + "1" * 440 + "1" * 10 + "0" * 490, "0" + "1" * 499 + "1" + "0" * 499
    dft = "0" + "1" * 49 + "1" + "0" * 49
    few = answers("base", "1" * 50 + "0" * 50, "hard") + answers("dft", dft, "hard")
    table = mcnemar_table(frame(answers("base", base), answers("sft", sft), answers("dpo", dpo), few))
    assert table.select("benchmark", "run_b", "only_a", "only_b", "verdict").rows() == [
        ("heldout", "sft", 60, 10, DIFFERS),
        ("heldout", "dpo", 1, 1, EQUAL),
        ("heldout", "dpo", 9, 59, DIFFERS),
        ("hard", "dft", 1, 1, NO_POWER),
    ]
    # Problem 0 is lost by both sft and dpo. Two pairs with the base and one of methods on heldout, one on hard.
    assert table["detectable"].to_list() == [
        detectable_difference(1000, 0.07, 0.05 / 2),
        detectable_difference(1000, 0.002, 0.05 / 2),
        detectable_difference(1000, 0.068),
        detectable_difference(100, 0.02),
    ]


RUNS = {  # run -> method, learning rate: in the order of a study
    "base": ("base", 0.0),
    "base-instructed": ("base-instructed", 0.0),
    "sft": ("sft", 1e-3),
    "rft": ("rft", 1e-3),
    "dpo": ("dpo", 1e-4),
    "dpo-matched": ("dpo", 1e-3),
    "sft-order1": ("sft", 1e-3),
    "sft-init1": ("sft", 1e-3),
    "dpo-init1": ("dpo", 1e-4),
    "distillation": ("distillation", 1e-3),
    "teacher": ("teacher", 0.0),
}
BESIDES = ("base-instructed", "sft-order1", "sft-init1", "dpo-init1", "distillation", "teacher")


def test_families_are_the_questions() -> None:
    found = families([(run, *what) for run, what in RUNS.items()])
    main = ("sft", "rft", "dpo", "dpo-matched")
    assert [pair for pair, name in found.items() if name == "base"] == [("base", run) for run in main]
    assert {pair for pair, name in found.items() if name == "methods"} == set(combinations(main, 2))
    assert len(found) == 4 + 6


@pytest.mark.parametrize("draws", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_what_is_evaluated_besides_changes_no_other_pair(draws: int) -> None:
    """Replicates, what learns from the teacher itself, the teacher and the instructed base: every number of the pairs
    that were there stays, but for the interval that is made of the replicates."""
    rng = np.random.default_rng(0)
    kept = ["run_a", "run_b", "family", "n", "low", "high", "p_value", "p_mid", "p_holm", "detectable", "verdict"]
    seen: set[str] = set()
    for _ in range(draws):
        luck = rng.random(600)
        parts = {
            run: answers(
                run,
                "".join("01"[int(one < 0.6 + shift)] for one in luck + rng.normal(0, 0.05, 600)),
                method=method,
                lr=lr,
            )
            for shift, (run, (method, lr)) in zip(rng.normal(0, 0.04, len(RUNS)), RUNS.items(), strict=True)
        }
        main = [run for run in parts if run not in BESIDES and (run == "base" or rng.random() < 0.8)]
        # A replicate of what was left out would be a main run itself.
        possible = {RUNS["base-instructed"], RUNS["teacher"], *(RUNS[run] for run in main)}
        more = [run for run in BESIDES if RUNS[run] in possible and rng.random() < 0.7]
        alone = mcnemar_table(frame(*(parts[run] for run in main)))
        both = mcnemar_table(frame(*(parts[run] for run in RUNS if run in {*main, *more})))
        there = both.filter(pl.col("run_a").is_in(main), pl.col("run_b").is_in(main))
        assert there.select(kept).equals(alone.select(kept))
        seen |= set(there["verdict"])
        outside = both.filter(pl.col("family").is_null())
        assert outside["p_holm"].null_count() == outside.height
        for row in outside.iter_rows(named=True):
            assert row["verdict"] == verdict(row["p_value"], row["low"], row["high"])
            discordance = (row["only_a"] + row["only_b"]) / row["n"]
            assert row["detectable"] == detectable_difference(row["n"], discordance)
    assert len(seen) >= 2


def test_replicates_widen_the_interval_of_methods_once_for_each_training() -> None:
    base, sft, rft = "1" * 500 + "0" * 500, "1" * 540 + "0" * 460, "1" * 530 + "0" * 470
    again = "1" * 510 + "0" * 490  # 30 problems fewer than sft
    parts = [answers("base", base), answers("sft", sft), answers("rft", rft)]
    table = mcnemar_table(frame(*parts, answers("sft-order1", again, method="sft"), answers("teacher", base)))
    spread = training_spread([np.array([[mark == "1" for mark in marks] for marks in (sft, again)])])
    assert spread is not None
    rows = {(row["run_a"], row["run_b"]): row for row in table.iter_rows(named=True)}
    for pair, trained in (
        (("base", "sft"), 1),
        (("sft", "rft"), 2),
        (("rft", "teacher"), 1),
        (("sft", "sft-order1"), 2),
    ):
        row = rows[pair]
        expected = method_interval(row["only_a"], row["only_b"], 1000, trained, spread)
        assert (row["method_low"], row["method_high"]) == expected
        assert (row["repeats"], row["training_sd"]) == (1, spread.own**0.5)
    assert rows["base", "teacher"]["method_low"] is None  # neither was trained


def test_one_shared_problem_has_no_power() -> None:
    table = mcnemar_table(frame(answers("base", "1"), answers("sft", "0")))
    assert table.select("n", "difference", "p_holm", "detectable", "verdict").row(0) == (1, 1.0, 1.0, None, "no power")


def test_holm_is_within_one_family_of_one_benchmark() -> None:
    parts = [
        answers(run, marks, benchmark)
        for benchmark in ("heldout", "hard")
        for run, marks in (("base", "1111110"), ("sft", "0000001"), ("dpo", "0000000"))
    ]
    table = mcnemar_table(frame(*parts))
    assert len(table) == 6
    for _, rows in table.group_by("benchmark", "family", maintain_order=True):
        assert rows["p_holm"].to_list() == holm(rows["p_value"]).tolist()
    assert table.filter(benchmark="heldout").drop("benchmark").equals(table.filter(benchmark="hard").drop("benchmark"))


def test_answers_are_matched_by_problem_and_only_sample_0_is_tested() -> None:
    a, b = answers("base", "1100"), answers("sft", "1010")
    second = [{**row, "sample": 1, "correct": not row["correct"]} for row in a + b]
    expected = mcnemar_table(frame(a, b))
    assert mcnemar_table(frame(second, a, b[::-1])).equals(expected)
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
    with pytest.raises(InputError, match=r"run sft has no greedy answer \(sample 0\) on heldout"):
        mcnemar_table(frame(answers("base", "11"), answers("sft", "10", sample=1)))
    for make in (accuracy_table, mcnemar_table):
        with pytest.raises(InputError, match="no answers"):
            make(frame())
    with pytest.raises(InputError, match=r"missing columns \['gold'\]"):
        accuracy_table(frame(rows).drop("gold"))
