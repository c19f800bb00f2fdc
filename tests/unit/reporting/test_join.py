from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import polars as pl
import pytest

from tasks.core.errors import InputError
from tasks.core.results import DIFFERS, DIFFERS_LITTLE, EQUAL, NO_POWER, RunInfo
from tasks.reporting.views.accuracy import Versus
from tasks.reporting.views.study import Study


def test_the_base_is_first_whatever_the_order_of_the_runs(study: Study) -> None:
    backwards = replace(study, runs=study.runs[::-1], accuracy=study.accuracy.reverse())
    names = [info.run for info in backwards.ordered]
    assert names == ["base", "sft-order1", "dpo", "offline_grpo", "rift", "dft", "rft", "sft"]


def test_a_base_that_nobody_measured_still_has_a_row(study: Study) -> None:
    without = replace(study, runs=study.runs[1:], accuracy=study.accuracy.filter(pl.col("run") != "base"))
    assert without.ordered[0].run == "base"
    assert without.score("base", "heldout") is None


def test_the_teacher_is_the_last_row(study: Study) -> None:
    teacher = study.accuracy.filter(pl.col("run") == "base").with_columns(run=pl.lit("big"), method=pl.lit("teacher"))
    names = [info.run for info in replace(study, accuracy=pl.concat([teacher, study.accuracy])).ordered]
    assert (names[0], names[-1]) == ("base", "big")


def test_versus_turns_the_pair_round(study: Study) -> None:
    row = study.mcnemar.filter(benchmark="heldout", run_a="base", run_b="rft").row(0, named=True)
    found = study.versus("rft", "base", "heldout")
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert (found.only_this, found.only_other) == (row["only_b"], row["only_a"])
    assert found.difference == -row["difference"]
    # Accuracy of rft less that of the base, from the counts themselves: (only rft - only base) / n.
    assert found.difference == pytest.approx((row["only_b"] - row["only_a"]) / row["n"], abs=1e-15)
    back = study.versus("base", "rft", "heldout")
    assert back is not None
    assert back.difference == -found.difference
    assert (back.low, back.high) == (row["low"], row["high"]) == (-found.high, -found.low)
    assert (back.method_low, back.method_high) == (row["method_low"], row["method_high"])
    assert (found.method_low, found.method_high) == (-row["method_high"], -row["method_low"])


def test_a_difference_is_shown_by_the_verdict_only() -> None:
    found = Versus(100, 9, 1, 0.08, 0.01, 0.15, 0.021, 0.011, 0.08, "base", detectable=0.12, verdict=NO_POWER)
    assert (found.shown, found.p, found.rejects, found.repeatable) == (False, 0.08, True, None)
    assert replace(found, verdict=DIFFERS).shown
    assert replace(found, verdict=DIFFERS_LITTLE).shown
    assert not replace(found, verdict=EQUAL).shown
    # Outside the families the verdict read the pair's own p.
    assert replace(found, family=None, p_holm=None).p == 0.021
    assert replace(found, method_low=-0.01, method_high=0.17).repeatable is False
    assert replace(found, method_low=0.001, method_high=0.16).repeatable is True


def test_a_pair_without_a_verdict_has_no_power(study: Study) -> None:
    unjudged = study.mcnemar.with_columns(verdict=pl.lit(None, pl.String()), detectable=pl.lit(None, pl.Float64()))
    found = replace(study, mcnemar=unjudged).versus("sft", "base", "heldout")
    assert found is not None
    assert (found.verdict, found.shown, found.detectable) == ("no power", False, None)


def test_benchmarks_of_any_name_take_the_headline(study: Study) -> None:
    names = pl.col("benchmark").replace({"heldout": "gsm8k", "hard": "math500"})
    renamed = replace(study, accuracy=study.accuracy.with_columns(names), mcnemar=study.mcnemar.with_columns(names))
    assert (renamed.primary, renamed.second) == ("gsm8k", "math500")
    alone = replace(study, accuracy=study.accuracy.filter(benchmark="hard"))
    assert (alone.primary, alone.second) == ("hard", None)


def test_nobody_solves(build_study: Callable[..., Study], study: Study) -> None:
    assert not study.nobody_solves
    hopeless = build_study(solve=0.0)
    assert hopeless.nobody_solves
    teacher = hopeless.accuracy.head(1).with_columns(run=pl.lit("teacher"), method=pl.lit("teacher"), accuracy=0.9)
    assert replace(hopeless, accuracy=pl.concat([hopeless.accuracy, teacher])).nobody_solves


def test_a_frame_out_of_its_schema_is_named(study: Study) -> None:
    with pytest.raises(InputError, match=r"spectra: missing columns \['value'\]"):
        replace(study, spectra=study.spectra.drop("value")).checked()


def test_base_of_is_the_base_row(study: Study) -> None:
    assert study.base == RunInfo("base", "base", 0, 0, 0.0)
