"""Whether updates add, from answers made up by hand and from random ones against the slow definition."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl
import pytest

from tasks.core.errors import InputError
from tasks.core.frames import OWN_ANSWERS, RETENTION, SOUPS
from tasks.core.results import RunInfo, Soup
from tasks.evaluation.intervals import paired_interval, ratio_bootstrap
from tasks.evaluation.soups import soups_frame
from tests.definitions.soups import slow_accuracy, slow_divergence
from tests.unit.evaluation.test_truncation import answers

SFT, DPO = RunInfo("sft", "sft", 0, 0, 1e-3), RunInfo("dpo", "dpo", 0, 0, 1e-4)
SUM, MEAN = Soup("sft+dpo", (SFT, DPO), 1.0), Soup("mean(sft+dpo)", (SFT, DPO), 0.5)
RIGHT = {"base": "1111000000", "sft": "0011110000", "dpo": "1111111000", "sft+dpo": "0011111100",
         "mean(sft+dpo)": "1111110000"}  # fmt: skip
NOTHING = (pl.DataFrame(schema=OWN_ANSWERS), pl.DataFrame(schema=RETENTION))


def own_answers(**nats: tuple[float, ...]) -> pl.DataFrame:
    rows = [(run.replace("_", "+"), f"p{i}", 2 + i, kl, 0.0) for run, own in nats.items() for i, kl in enumerate(own)]
    return pl.DataFrame(rows, schema=OWN_ANSWERS, orient="row")


def by_measure(frame: pl.DataFrame, soup: str = "sft+dpo") -> dict[str, dict[str, Any]]:
    return {row["measure"]: row for row in frame.filter(soup=soup).iter_rows(named=True)}


def test_accuracies_by_hand() -> None:
    """The base has 4 of 10, sft 4 (+0), dpo 7 (+3): predicted are +.3 for the sum, which has 6 (+.2), and +.15 for the
    mean, which has 6 as well. The sum alone has p4 to p7, the base alone p0 and p1."""
    frame = soups_frame([SUM, MEAN], answers(RIGHT), *NOTHING)
    assert dict(frame.schema) == SOUPS
    rows = {name: by_measure(frame, name)["accuracy"] for name in ("sft+dpo", "mean(sft+dpo)")}
    assert [row["value"] for row in rows.values()] == pytest.approx([0.6, 0.6])
    assert [row["predicted"] for row in rows.values()] == pytest.approx([0.3, 0.15])
    assert [row["apart"] for row in rows.values()] == pytest.approx([-0.1, 0.05])
    whole = rows["sft+dpo"]
    assert (whole["change"], whole["low"], whole["high"]) == pytest.approx((0.2, *paired_interval(4, 2, 10)))
    assert (whole["runs"], whole["weight"], whole["n"], whole["benchmark"]) == (["sft", "dpo"], 1.0, 10, "heldout")
    # Problem by problem the sum is beyond the prediction by 0 in p0 to p3, by 1 - (1 + 1) in p4 and p5, by 0 in p6,
    # and by 1 in p7.
    expected = ratio_bootstrap([0, 0, 0, 0, -1, -1, 0, 1, 0, 0], np.ones(10))
    assert (whole["apart_low"], whole["apart_high"]) == (expected.low, expected.high)


def test_divergences_by_hand() -> None:
    """2 and 3 tokens: sft has 1 + 4 nats, dpo 0 + 2, so a sum of orthogonal ones 7 / 5 = 1.4 nats a token, their mean a
    quarter of it, .35; the sum has 3 + 7 = 10 nats, 2 a token."""
    own = own_answers(sft=(1.0, 4.0), dpo=(0.0, 2.0), sft_dpo=(3.0, 7.0))
    mean = own.filter(run="sft").with_columns(run=pl.lit("mean(sft+dpo)"))
    frame = soups_frame([SUM, MEAN], answers(RIGHT), pl.concat([own, mean]), NOTHING[1])
    whole, half = (by_measure(frame, name)["own_kl"] for name in ("sft+dpo", "mean(sft+dpo)"))
    assert (whole["value"], whole["change"], whole["predicted"], whole["apart"]) == pytest.approx((2.0, 2.0, 1.4, 0.6))
    assert (half["value"], half["predicted"], half["apart"]) == pytest.approx((1.0, 0.35, 0.65))
    assert (whole["low"], whole["high"]) == pytest.approx((1.5, 7 / 3))  # either problem alone
    assert (whole["apart_low"], whole["apart_high"]) == pytest.approx((1 / 3, 1.0))  # 3 - 1 - 0 of 2, 7 - 4 - 2 of 3
    assert (whole["n"], whole["benchmark"]) == (2, None)


@pytest.mark.parametrize("seed", range(3))
def test_random_answers_against_the_slow_definition(seed: int) -> None:
    """Three parts; each run lacks some problems."""
    rng = np.random.default_rng(seed)
    names = [f"p{i}" for i in range(30)]
    parts = tuple(RunInfo(run, run, 0, 0, 1e-3) for run in ("a", "b", "c"))
    soup, weight = Soup("mean(a+b+c)", parts, 1 / 3), Fraction(1, 3)
    digits = {run: "".join(rng.choice(["0", "1"], 30)) for run in ("base", "a", "b", "c", soup.name)}
    items = answers(digits)
    items = items.filter(pl.Series(rng.random(items.height) > 0.05) | (pl.col("sample") == 1))
    known = {run: dict(items.filter(run=run, sample=0).select("problem_id", "correct").iter_rows()) for run in digits}
    nats = {run: dict(zip(names, rng.exponential(size=30), strict=True)) for run in ("a", "b", "c", soup.name)}
    tokens = dict(zip(names, rng.integers(1, 9, 30).tolist(), strict=True))
    rows = [(run, name, tokens[name], kl, 0.0) for run, own in nats.items() for name, kl in own.items()]
    found = by_measure(
        soups_frame([soup], items, pl.DataFrame(rows, schema=OWN_ANSWERS, orient="row"), NOTHING[1]), soup.name
    )
    change, predicted = slow_accuracy(known[soup.name], known["base"], [known[run] for run in "abc"], weight)
    assert (found["accuracy"]["change"], found["accuracy"]["predicted"]) == pytest.approx(
        (float(change), float(predicted))
    )
    assert found["own_kl"]["predicted"] == pytest.approx(slow_divergence([nats[run] for run in "abc"], tokens, weight))
    assert found["own_kl"]["value"] == pytest.approx(sum(nats[soup.name].values()) / sum(tokens.values()))


def test_a_change_that_is_the_prediction_everywhere_has_no_interval() -> None:
    """dpo changes nothing, and the sum is sft: every problem is as predicted."""
    right = RIGHT | {"dpo": RIGHT["base"], "sft+dpo": RIGHT["sft"]}
    row = by_measure(soups_frame([SUM], answers(right), *NOTHING))["accuracy"]
    assert (row["apart"], row["apart_low"], row["apart_high"]) == (0, None, None)
    assert row["low"] < row["change"] < row["high"]


def test_forgetting_is_told_and_not_predicted() -> None:
    kept = pl.DataFrame(
        [dict.fromkeys(RETENTION) | {"run": "sft+dpo", "n": 7, "loss": 2.0, "forgetting": 0.5, "forgetting_low": 0.4,
                                     "forgetting_high": 0.6}], schema=RETENTION
    )  # fmt: skip
    row = by_measure(soups_frame([SUM], answers(RIGHT), NOTHING[0], kept))["forgetting"]
    assert (row["n"], row["value"], row["change"], row["low"], row["high"]) == (7, 2.0, 0.5, 0.4, 0.6)
    assert (row["predicted"], row["apart"]) == (None, None)


def test_each_benchmark_has_its_rows_and_a_missing_run_is_named() -> None:
    hard = answers({name: digits[:3] for name, digits in RIGHT.items()}).with_columns(benchmark=pl.lit("hard"))
    frame = soups_frame([SUM], pl.concat([answers(RIGHT), hard]), *NOTHING)
    assert frame.select("benchmark", "n").rows() == [("heldout", 10), ("hard", 3)]
    with pytest.raises(InputError, match="no answer of dpo to heldout; evaluate it too"):
        soups_frame([SUM], answers(RIGHT).filter(pl.col("run") != "dpo"), *NOTHING)
