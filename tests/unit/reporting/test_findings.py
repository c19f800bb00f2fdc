from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import polars as pl

from tasks.reporting.findings.headline import Findings, findings
from tasks.reporting.formats import p_value, percent, points, points_interval
from tasks.reporting.notes import floor_note
from tasks.reporting.views.join import StudyTables
from tasks.reporting.views.pairs import geometry


def told(tables: StudyTables) -> Findings:
    return findings(tables, geometry(tables))


def test_the_first_sentence_holds_two_orders_against_two_orders(study: StudyTables) -> None:
    assert told(study).sentences[0] == (
        "Across data orders sft agrees with itself to a cosine of 0.975. Farther from it than a method is from itself: "
        "rift (0.956; 0.981 in one order), rft (0.934; 0.958 in one order), offline_grpo (0.784; 0.804 in one order), "
        "dft (0.746; 0.765 in one order) and dpo (-0.020; -0.021 in one order)."
    )


def test_without_a_floor_no_cosine_is_called_high(study: StudyTables) -> None:
    sentence = told(replace(study, runs=study.runs[:-1])).sentences[0]
    assert sentence.startswith("Cosine to sft: rift 0.981, rft 0.958, offline_grpo 0.804, dft 0.765 and dpo -0.021.")
    assert "No noise floor was measured" in sentence
    assert "than a method is from itself" not in sentence


def test_a_floor_whose_cosine_is_missing_says_so(study: StudyTables) -> None:
    kept = study.pair_metrics.filter((pl.col("run_a") != "sft-order1") & (pl.col("run_b") != "sft-order1"))
    note = floor_note(geometry(replace(study, pair_metrics=kept)))
    assert "the cosine of sft and sft-order1 is missing" in note


def test_accuracy_is_told_against_the_base_with_its_p(study: StudyTables) -> None:
    sentence = told(study).sentences[1]
    base = study.accuracy.filter(run="base", benchmark="heldout")["accuracy"][0]
    assert sentence.startswith(f"Held-out accuracy against the base's {percent(base)} % (n = 400): higher for sft")
    asked = study.mcnemar.filter(benchmark="heldout", run_a="base", family="base")
    assert asked.height == 6
    before, after = sentence.split("no power to tell for")
    for row in asked.iter_rows(named=True):
        shown = row["verdict"] == "differs"
        interval = "" if shown else f" {points_interval(-row['high'], -row['low'])}"
        change = f"{row['run_b']} ({points(-row['difference'])}{interval} points, p = {p_value(row['p_holm'])})"
        assert change in (before if shown else after)
    assert "Holm over the 6 runs against the base" in sentence
    assert "sft-order1" not in sentence  # a replicate is no method


def test_a_loss_of_accuracy_is_called_lower(study: StudyTables) -> None:
    turned = study.mcnemar.with_columns(
        difference=-pl.col("difference"), only_a="only_b", only_b="only_a", low=-pl.col("high"), high=-pl.col("low")
    )
    assert ": lower for sft (-" in told(replace(study, mcnemar=turned)).sentences[1]


def test_no_discordant_problem_says_why_nothing_differs(build_study: Callable[..., StudyTables]) -> None:
    said = told(build_study(solve=0.0))
    assert said.sentences[1] == (
        "Held-out accuracy against the base's 0.0 % (n = 400): equal within 2 points for all of the 6 runs (changes "
        "from 0.0 to 0.0 points, 95 % intervals within [-0.69, +0.69], smallest p = 1.00; no problem was answered "
        "right by one and wrong by the other). For comparison: the same method differs in another data order by 0.0 "
        "points. p: exact McNemar, Holm over the 6 runs against the base; equal: the 95 % interval lies within 2 "
        "points."
    )
    # 1.96 sqrt(2 / 402 / 402) = .0069


def test_a_model_that_cannot_do_it_is_said_at_the_top(
    build_study: Callable[..., StudyTables], study: StudyTables
) -> None:
    assert told(study).warnings == ()
    (warning,) = told(build_study(solve=0.0)).warnings
    assert warning == (
        "This model does not solve these problems: no accuracy is above 0.0 % (0 of 400, base). Accuracy cannot tell "
        "the methods apart here; read the answer loss instead."
    )


def test_a_failed_check_and_a_missing_base_are_warnings(study: StudyTables) -> None:
    checks = [{"name": "held-out overlap", "ok": False, "detail": "3 problems"}]
    failed = replace(study, study={**study.study, "checks": checks})
    assert told(failed).warnings == ("Check failed: held-out overlap: 3 problems",)
    baseless = replace(study, runs=study.runs[1:], accuracy=study.accuracy.filter(pl.col("run") != "base"))
    assert told(baseless).warnings == (
        "The base was not evaluated, so no accuracy here can be called a gain or a loss.",
    )


def test_a_floor_of_noise_is_a_warning(study: StudyTables) -> None:
    noise = study.pair_metrics.with_columns(value=pl.when(pl.col("metric") == "cosine").then(0.06).otherwise("value"))
    (warning,) = told(replace(study, pair_metrics=noise)).warnings
    assert warning.startswith("The noise floor is only 0.060: a method does not agree with itself")


def test_what_fell_out_is_counted(study: StudyTables) -> None:
    sentence = told(study).sentences[-2]
    share = (pl.col("truncated") / pl.col("n")).alias("share")
    worst = study.accuracy.with_columns(share).sort("share", descending=True).row(0, named=True)
    assert (
        f"up to {worst['truncated']} of {worst['n']} answers were cut at the token limit ({worst['run']}," in sentence
    )
    assert "17 rollout rows were dropped (longer than the model's context: 17)" in sentence


def test_what_was_not_measured_is_named(study: StudyTables) -> None:
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
