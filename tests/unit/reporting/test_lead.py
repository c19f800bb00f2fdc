"""The sentences of the first screen: their numbers are the tables', and no direction is called near without a floor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import polars as pl

from tasks.core.results import RunInfo
from tasks.reporting.claims.paper import claims_table
from tasks.reporting.findings.lead import accuracy_lead, direction_lead, disagreements, doubt_lead, lead
from tasks.reporting.formats import percent
from tasks.reporting.views.study import Study
from tests.unit.reporting.conftest import RUNS


def test_a_method_at_the_floor_is_said_to_move_alike(study: Study) -> None:
    pair = pl.col("run_a").is_in(["rift", "sft-order1"]) & pl.col("run_b").is_in(["rift", "sft-order1"])
    near = study.pair_metrics.with_columns(
        value=pl.when((pl.col("metric") == "cosine") & pair).then(0.99).otherwise("value")
    )
    said = direction_lead(replace(study, pair_metrics=near).geometry)
    assert said.startswith(
        "rift 0.990 moves the weights as near to sft as sft trained again on reshuffled data (cosine 0.975);"
    )


def test_without_a_repeat_run_nothing_is_called_near_or_far(study: Study) -> None:
    said = direction_lead(replace(study, runs=study.runs[:-1]).geometry)
    assert "no repeat" in said
    assert "farther" not in said.lower()


def test_accuracy_answers_whether_it_matters(study: Study) -> None:
    said = accuracy_lead(study)
    base = study.accuracy.filter(run="base", benchmark="heldout")["accuracy"][0]
    assert said.startswith(f"Held-out accuracy against the base's {percent(base)} %: ")
    asked = study.mcnemar.filter(benchmark="heldout", family="base")
    higher = asked.filter(pl.col("verdict") == "differs", pl.col("difference") < 0)  # the base is first
    assert higher.height
    assert f"gain{'s' if higher.height == 1 else ''}" in said
    assert "Between methods" in said
    pairs = study.mcnemar.filter(benchmark="heldout", family="methods")
    shown = pairs.filter(pl.col("verdict").str.starts_with("differs")).height
    assert (
        f"in {shown} of {pairs.height} pairs" in said or f"the other {pairs.height - shown} pairs" in said or not shown
    )


def test_a_model_that_solves_nothing_differs_in_nothing(build_study: Callable[..., Study]) -> None:
    said = accuracy_lead(build_study(solve=0.0))
    assert "all 6 methods are equal to it within 2 points" in said
    assert "Between methods no difference is shown, in 15 pairs (all are equal)." in said


def test_the_rate_is_named_where_it_may_be_the_reason(study: Study) -> None:
    assert doubt_lead(study).startswith("dpo was trained at 1/10 of the rate (norm of the update 0.210, others 2.8)")
    runs = [*RUNS, RunInfo("dpo-high", "dpo", 0, 0, 1e-3)]
    both = replace(study, runs=runs)  # a method at two rates tells the two apart
    assert "of the rate" not in doubt_lead(both)


def test_at_most_three_sentences_of_two_lines(study: Study) -> None:
    said = lead(study)
    assert len(said) == 3
    assert max(map(len, said)) <= 260


def test_the_claims_farthest_from_the_paper_are_named_with_their_numbers(study: Study) -> None:
    results = claims_table(study)
    said = disagreements(results)
    failing = [one for one in results if one.verdict == "does not hold" and one.claim.paper and not one.claim.open]
    assert any(one.claim.statement.rstrip(".") in said for one in failing)
    assert disagreements([one for one in results if one.verdict == "holds"]) == ""
