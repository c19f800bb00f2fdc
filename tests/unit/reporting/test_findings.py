from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import polars as pl

from tasks.reporting.findings.headline import Findings, findings
from tasks.reporting.notes import floor_note
from tasks.reporting.views.study import Study


def told(tables: Study) -> Findings:
    return findings(tables)


def test_a_floor_whose_cosine_is_missing_says_so(study: Study) -> None:
    kept = study.pair_metrics.filter((pl.col("run_a") != "sft-order1") & (pl.col("run_b") != "sft-order1"))
    note = floor_note(replace(study, pair_metrics=kept).geometry)
    assert "the cosine of sft and sft-order1 is missing" in note


def test_a_model_that_cannot_do_it_is_said_at_the_top(build_study: Callable[..., Study], study: Study) -> None:
    assert told(study).warnings == ()
    (warning,) = told(build_study(solve=0.0)).warnings
    assert "no accuracy is above 0.0 % (0 of 400, base)" in warning


def test_a_failed_check_and_a_missing_base_are_warnings(study: Study) -> None:
    checks = [{"name": "held-out overlap", "ok": False, "detail": "3 problems"}]
    failed = replace(study, record={**study.record, "checks": checks})
    assert told(failed).warnings == ("Check failed: held-out overlap: 3 problems",)
    baseless = replace(study, runs=study.runs[1:], accuracy=study.accuracy.filter(pl.col("run") != "base"))
    assert told(baseless).warnings == (
        "The base was not evaluated, so no accuracy here can be called a gain or a loss.",
    )


def test_a_floor_of_noise_is_a_warning(study: Study) -> None:
    noise = study.pair_metrics.with_columns(value=pl.when(pl.col("metric") == "cosine").then(0.06).otherwise("value"))
    (warning,) = told(replace(study, pair_metrics=noise)).warnings
    assert warning.startswith("The noise floor is only 0.060: a method does not agree with itself")


def test_what_fell_out_is_counted(study: Study) -> None:
    sentence = told(study).sentences[-2]
    share = (pl.col("truncated") / pl.col("n")).alias("share")
    worst = study.accuracy.with_columns(share).sort("share", descending=True).row(0, named=True)
    assert (
        f"up to {worst['truncated']} of {worst['n']} answers were cut at the token limit ({worst['run']}," in sentence
    )
    assert "17 rollout rows were dropped (longer than the model's context: 17)" in sentence


def test_what_was_not_measured_is_named(study: Study) -> None:
    complete = told(study).sentences[-1]
    assert "answer loss" not in complete
    assert complete.startswith("Not measured: the noise floor of the initialisation and spread over learning rates.")
    assert "dpo (1e-4) against 1e-3 for the others" in complete
    gaps = replace(
        study,
        accuracy=study.accuracy.filter(benchmark="heldout").with_columns(answer_loss=pl.lit(None, pl.Float64())),
        spectra=study.spectra.clear(),
        pair_metrics=study.pair_metrics.filter(~((pl.col("run_a") == "rft") & (pl.col("run_b") == "dft"))),
        training=study.training.clear(),
    )
    sentence = told(gaps).sentences[-1]
    for gap in ("a second benchmark", "answer loss", "1 of 21 cosines", "norms and effective ranks", "training losses"):
        assert gap in sentence
