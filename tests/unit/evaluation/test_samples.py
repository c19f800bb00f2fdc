from __future__ import annotations

from fractions import Fraction
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
import polars as pl
import pytest

from tasks.core.errors import InputError
from tasks.core.frames import DIFFERENCES, ITEMS, SAMPLES
from tasks.evaluation.intervals import paired_bootstrap, share_interval, wilson
from tasks.evaluation.samples import differences_table, maj_at_k, pass_at_k, samples_table


def sampled(run: str, problems: list[str], benchmark: str = "aime", **columns: Any) -> list[dict[str, Any]]:
    """One string a problem, one letter a drawn answer: what was read, "R" being right and "-" nothing."""
    return [
        {
            **dict.fromkeys(ITEMS),
            "run": run,
            "method": run,
            "benchmark": benchmark,
            "problem_id": f"p{i}",
            "sample": sample,
            "prediction": None if letter == "-" else letter,
            "correct": letter == "R",
            **columns,
        }
        for i, letters in enumerate(problems)
        for sample, letter in enumerate(letters, 1)
    ]


def frame(*parts: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame([row for part in parts for row in part], schema=ITEMS)


def values(table: pl.DataFrame) -> dict[tuple[str, int], float]:
    return {(metric, k): value for metric, k, value in table.select("metric", "k", "value").iter_rows()}


def vote(letters: tuple[str, ...]) -> Fraction:
    """The majority vote by its definition: which share of it falls to "R"."""
    counts = {letter: letters.count(letter) for letter in letters if letter != "-"}
    winners = [letter for letter, count in counts.items() if count == max(counts.values())]
    return Fraction(winners.count("R"), len(winners)) if winners else Fraction(0)


def test_pass_at_k_by_hand() -> None:
    # Chen et al., eq. 1: n = 5, c = 2, k = 2: 1 - C(3,2)/C(5,2) = 1 - 3/10; k = 3: 1 - 1/10; k = 4: only 3 are wrong.
    assert pass_at_k(5, 2, 2) == pytest.approx(0.7, rel=1e-15)
    assert pass_at_k(5, 2, 3) == pytest.approx(0.9, rel=1e-15)
    assert pass_at_k(5, 2, 4) == 1.0
    assert [pass_at_k(5, c, 1) for c in (0, 1, 5)] == pytest.approx([0.0, 0.2, 1.0], abs=1e-15)


@pytest.mark.parametrize(("n", "correct", "k"), [(200, 3, 100), (200, 40, 10), (1000, 1, 500), (64, 30, 34), (7, 7, 7)])
def test_pass_at_k_equals_the_binomials_exactly_computed(n: int, correct: int, k: int) -> None:
    exact = 1 - Fraction(comb(n - correct, k), comb(n, k))
    assert pass_at_k(n, correct, k) == pytest.approx(float(exact), rel=1e-12)


def test_maj_by_hand() -> None:
    # R R W X of which 3 are drawn: RRW, RRX win; RWX (twice) ties three ways: (2 + 2/3) / 4.
    assert maj_at_k([2, 1, 1], [1, 0, 0], 0, 3) == pytest.approx(2 / 3, rel=1e-14)
    # All four: R wins. R R W W: the tie is split. An unparsed answer has no vote: R - - wins. No votes: wrong.
    assert maj_at_k([2, 1, 1], [1, 0, 0], 0, 4) == 1.0
    assert maj_at_k([2, 2], [1, 0], 0, 4) == 0.5
    assert maj_at_k([1], [1], 2, 3) == 1.0
    assert maj_at_k([], [], 3, 2) == 0.0
    # R - -: one of three draws of a single sample has R.
    assert maj_at_k([1], [1], 2, 1) == pytest.approx(1 / 3, rel=1e-14)


def test_maj_and_pass_equal_the_mean_over_every_choice_of_k() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        letters = "".join(rng.choice(list("RRWXYZ-"), size=rng.integers(1, 10)))
        counts = {letter: letters.count(letter) for letter in letters if letter != "-"}
        right = [float(letter == "R") for letter in counts]
        for k in range(1, len(letters) + 1):
            choices = list(combinations(letters, k))
            majority = sum(map(vote, choices)) / len(choices)
            some = Fraction(sum("R" in choice for choice in choices), len(choices))
            found = maj_at_k(list(counts.values()), right, letters.count("-"), k)
            assert found == pytest.approx(float(majority), abs=1e-13)
            assert pass_at_k(len(letters), letters.count("R"), k) == pytest.approx(float(some), abs=1e-13)


def test_maj_of_many_samples_and_of_two_right_texts() -> None:
    # Two answers and an odd k cannot tie: their chances add up to 1. Of 501 drawn from 600 + 400, 300.6 +- 7.7 are
    # right (hypergeometric): 251 and more but for a chance of some 1e-10.
    chances = [maj_at_k([600, 400], right, 0, 501) for right in ([1, 0], [0, 1])]
    assert sum(chances) == pytest.approx(1.0, rel=1e-12)
    assert 0 < chances[1] < 1e-9
    # Two candidates that are both right (the table makes one of them) lose to three of one wrong answer.
    assert maj_at_k([2, 2, 3], [1, 1, 0], 0, 7) == 0.0
    assert maj_at_k([2, 2, 2], [1, 1, 0], 0, 6) == pytest.approx(2 / 3, rel=1e-14)


def test_table_by_hand() -> None:
    # Of 4 samples: p0 three right of which all read; p1 one right, W wins; p2 nothing read.
    items = frame(sampled("sft", ["RRRW", "RWWX", "----"]), sampled("base", ["RRRR", "WWWW", "R-RW"]))
    table = samples_table(items, ks=[4, 1, 2])
    assert dict(table.schema) == SAMPLES
    assert table.select("run", "metric", "k").rows() == [
        (run, metric, k) for run in ("base", "sft") for k in (1, 2, 4) for metric in ("avg", "pass", "maj")
    ]
    assert set(table.select("benchmark", "n", "samples").rows()) == {("aime", 3, 4)}
    sft = values(table.filter(run="sft"))
    assert [sft[metric, 1] for metric in ("avg", "pass", "maj")] == pytest.approx([1 / 3] * 3, rel=1e-14)
    assert [sft["avg", k] for k in (1, 2, 4)] == pytest.approx([1 / 3] * 3, rel=1e-14)
    # pass@2: p0 1, p1 1 - C(3,2)/C(4,2) = 1/2. maj@2: p0 RR (3 of 6) 1, RW (3) 1/2: 3/4; p1 RW RW RX tie: 1.5/6 = 1/4.
    assert sft["pass", 2] == pytest.approx(1.5 / 3, rel=1e-14)
    assert sft["maj", 2] == pytest.approx((3 / 4 + 1 / 4) / 3, rel=1e-14)
    assert sft["pass", 4] == pytest.approx(2 / 3, rel=1e-14)
    assert sft["maj", 4] == pytest.approx(1 / 3, rel=1e-14)
    low, high = table.filter(run="sft", metric="avg", k=1).select("low", "high").row(0)
    interval = share_interval([0.75, 0.25, 0.0], seed=0)
    assert (low, high) == (interval.low, interval.high)


def test_default_k_is_what_every_problem_has() -> None:
    items = frame(sampled("sft", ["RRW", "RW"]), sampled("base", ["RRRR", "WWWW"]))
    table = samples_table(items)
    assert set(table["k"].to_list()) == {2}
    assert table.filter(metric="avg").select("run", "samples").rows() == [("base", 4), ("sft", 2)]
    # Each problem counts the same: (2/3 + 1/2) / 2, not 3/5.
    assert values(table.filter(run="sft"))["avg", 2] == pytest.approx(7 / 12, rel=1e-14)


def test_no_spread_and_one_problem_do_not_claim_certainty() -> None:
    always = samples_table(frame(sampled("sft", ["RR"] * 30)))
    for low, high in always.select("low", "high").iter_rows():
        assert (low, high) == pytest.approx(wilson(30, 30), rel=1e-12)
    one = samples_table(frame(sampled("sft", ["RW"]))).filter(metric="avg").row(0, named=True)
    # Wilson of half a success in one trial: .5 -+ z / (1 + z^2) sqrt(.25 + z^2 / 4) = .5 -+ .5 z / sqrt(1 + z^2).
    assert (one["value"], one["n"]) == (0.5, 1)
    assert one["high"] == pytest.approx(0.5 + 0.5 * 1.959964 / (1 + 1.959964**2) ** 0.5, abs=1e-6)


def test_differences_pair_by_problem() -> None:
    a, b = ["RRWW", "RRRR", "RWWW", "WWWW"], ["RWWW", "RRRW", "WWWW", "WWWR"]
    items = frame(sampled("sft", b), sampled("base", a), sampled("dpo", a[:3]))
    table = differences_table(items)
    assert dict(table.schema) == DIFFERENCES
    assert table.select("run_a", "run_b", "n", "samples").rows() == [
        ("base", "sft", 4, 4),
        ("base", "dpo", 3, 4),
        ("sft", "dpo", 3, 4),
    ]
    # .25, .25, .25, -.25: mean .125; base and dpo answer alike, and constant differences have no interval.
    assert table["difference"].to_list() == pytest.approx([0.125, 0.0, -0.25], abs=1e-15)
    interval = paired_bootstrap([0.5, 1.0, 0.25, 0.0], [0.25, 0.75, 0.0, 0.25], seed=0)
    assert table.select("low", "high").rows() == [(interval.low, interval.high), (None, None), (None, None)]


def test_differences_are_those_of_the_clustered_bootstrap_over_samples() -> None:
    rng = np.random.default_rng(1)
    a, b = (["".join(row) for row in rng.choice(["R", "W"], size=(20, 4))] for _ in range(2))
    found = differences_table(frame(sampled("base", a), sampled("sft", b)), seed=3).row(0, named=True)
    flat_a, flat_b = (np.array([letter == "R" for letter in "".join(rows)], dtype=float) for rows in (a, b))
    clusters = np.repeat(np.arange(20), 4)  # equal sizes: the mean of problems' means is the mean of all
    expected = paired_bootstrap(flat_a, flat_b, clusters=clusters, seed=3)
    assert (found["difference"], found["low"], found["high"]) == pytest.approx(
        (expected.estimate, expected.low, expected.high), abs=1e-12
    )


def test_bad_input_is_named() -> None:
    items = frame(sampled("sft", ["RR", "R"]))
    message = "k is 2, but run sft has 1 samples of aime problem p1; .*lower it, or raise evaluation.samples"
    with pytest.raises(InputError, match=message) as error:
        samples_table(items, ks=[1, 2])
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="k is 0"):
        samples_table(items, ks=[0])
    with pytest.raises(InputError, match="no answers"):
        samples_table(frame())
    with pytest.raises(InputError, match="no answers"):
        differences_table(frame())
    with pytest.raises(InputError, match="runs base and sft share no problem of aime"):
        differences_table(frame(sampled("base", ["R"]), sampled("sft", ["R"], problem_id="other")))
    with pytest.raises(InputError, match="k is 3 of n = 2"):
        maj_at_k([2], [1], 0, 3)
    with pytest.raises(InputError, match="k is 3 of n = 2"):
        pass_at_k(2, 1, 3)
    with pytest.raises(InputError, match="correct is 3 of n = 2"):
        pass_at_k(2, 3, 1)
    with pytest.raises(InputError, match="1001 samples"):
        maj_at_k([1001], [1], 0, 2)
    with pytest.raises(InputError, match="need one of each"):
        maj_at_k([2, 0], [1, 0], 0, 1)


def test_greedy_answers_are_not_samples() -> None:
    drawn = frame(sampled("base", ["RW", "RR"]), sampled("sft", ["WW", "RW"]))
    greedy = drawn.filter(sample=1).with_columns(sample=pl.lit(0), correct=True, prediction=pl.lit("R"))
    both = pl.concat([greedy.cast(drawn.schema), drawn])
    assert samples_table(both).equals(samples_table(drawn))
    assert differences_table(both).equals(differences_table(drawn))
    assert [table.height for table in (samples_table(greedy), differences_table(greedy))] == [0, 0]
    with pytest.raises(InputError, match=r"k is 4, but items holds no drawn answers .*; raise evaluation.samples"):
        samples_table(greedy, ks=[1, 4])


def test_tables_without_pairs_or_ks_are_empty() -> None:
    items = frame(sampled("sft", ["RW"]))
    assert (dict(differences_table(items).schema), differences_table(items).height) == (DIFFERENCES, 0)
    assert (dict(samples_table(items, ks=[]).schema), samples_table(items, ks=[]).height) == (SAMPLES, 0)


def test_votes_are_for_values_not_for_texts() -> None:
    """Of 1/2, 0.5, 7, 7.0 and 3 no text is given twice; as values a half and seven have two votes each."""
    texts = ["1/2", "0.5", "7", "7.0", "3"]

    def told(right: set[str]) -> dict[tuple[str, int], float]:
        rows = sampled("sft", ["WWWWW"])
        for row, text in zip(rows, texts, strict=True):
            row.update(prediction=text, correct=text in right)
        return values(samples_table(frame(rows), ks=[1, 3, 5]))

    # All five: two votes for a half, two for seven, one for three: the tie is shared.
    half, seven, three = told({"1/2", "0.5"}), told({"7", "7.0"}), told({"3"})
    assert (half["maj", 5], seven["maj", 5], three["maj", 5]) == (0.5, 0.5, 0.0)
    # Three of HHSST, 10 choices: HHx and xHH win 3 (HHS, HHS, HHT); HST, 2 * 2 = 4 times, ties three ways: 4/3.
    assert half["maj", 3] == pytest.approx((3 + 4 / 3) / 10, rel=1e-14)
    assert half["maj", 3] + seven["maj", 3] + three["maj", 3] == pytest.approx(1.0, rel=1e-14)
    assert half["maj", 1] == pytest.approx(half["avg", 1], rel=1e-14) == pytest.approx(0.4, rel=1e-14)
