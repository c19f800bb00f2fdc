"""The page of a study whose numbers are ties, extremes or none: no figure warns, nothing reads as what it is not."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import polars as pl
import pytest

from tasks.core.results import RunInfo
from tasks.evaluation.accuracy import accuracy_table, mcnemar_table
from tasks.reporting.charts.curves import training_picture
from tasks.reporting.findings.doubts import risen_losses, uniform_rewards
from tasks.reporting.findings.headline import findings
from tasks.reporting.formats import number, significant, size
from tasks.reporting.publish.write import write_report
from tasks.reporting.tables.headline import headline_table
from tasks.reporting.tables.record import rollout_record
from tasks.reporting.views.study import Study
from tests.faults.numbers import check_claims, check_words
from tests.unit.reporting.conftest import make_spectra, make_study

BASE, SFT, DPO = (
    RunInfo("base", "base", 0, 0, 0.0),
    RunInfo("sft", "sft", 0, 0, 1e-3),
    RunInfo("dpo", "dpo", 0, 0, 1e-4),
)


@pytest.fixture(scope="module")
def study() -> Study:
    return make_study([BASE, SFT, DPO])


def page(tables: Study, folder: Path) -> str:
    """The Markdown of a report that was drawn with every warning an error, in which no NaN stands as a number."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_report(tables, folder / "page")
    check_words(folder / "page")
    check_claims(json.loads((folder / "page" / "claims.json").read_text(encoding="utf-8")))
    return (folder / "page" / "report.md").read_text(encoding="utf-8")


def answered(study: Study, correct: bool, n: int) -> Study:
    """The same answers of everybody to ``n`` problems of each benchmark."""
    items = study.items.filter(pl.col("problem_id").str.extract(r"-(\d+)$").cast(pl.Int64) < n)
    items = items.with_columns(correct=pl.lit(correct), prediction=pl.lit("42"))
    return replace(study, items=items, accuracy=accuracy_table(items), mcnemar=mcnemar_table(items))


@pytest.mark.parametrize(
    ("correct", "n"),
    [(True, 1), *(pytest.param(*one, marks=pytest.mark.faults) for one in ((True, 60), (False, 1), (False, 60)))],
)
def test_ties_everywhere(correct: bool, n: int, study: Study, tmp_path: Path) -> None:
    tables = answered(study, correct, n)
    text = page(tables, tmp_path)
    said = "Every model solves every one of the held-out and hard problems" if correct else "does not solve these"
    assert said in text
    # Wilson's interval of n of n: from n / (n + z^2), with 1.96^2 = 3.8415.
    ends = sorted((n / (n + 3.8415), 1.0) if correct else (0.0, 3.8415 / (n + 3.8415)))
    for low, high in tables.accuracy.select("low", "high").unique().iter_rows():
        assert (low, high) == (pytest.approx(ends[0], abs=1e-5), pytest.approx(ends[1], abs=1e-5))
    assert set(tables.mcnemar["p_holm"].drop_nulls()) == {1.0}
    assert set(tables.mcnemar["verdict"]) == {"no power"}  # 60 problems show no two points
    assert tables.mcnemar["detectable"].null_count() == (tables.mcnemar.height if n == 1 else 0)
    claims = {one["id"]: one for one in json.loads((tmp_path / "page" / "claims.json").read_text())}
    assert claims["accuracy-dpo-higher"]["verdict"] == "not measured"


def test_one_run_of_one_layer_and_one_step(study: Study, tmp_path: Path) -> None:
    one = make_study([BASE, SFT])
    tables = replace(
        one,
        spectra=make_spectra([BASE, SFT], layers=1),
        training=one.training.filter(step=1, run="sft"),
        lens=one.lens.clear(),
        cka=one.cka.filter(pl.col("layer") <= 1),
    )
    text = page(tables, tmp_path)
    assert "| sft | " in text
    figure = training_picture(tables)
    assert figure is not None
    (row,) = figure.spec["concat"][0]["data"]["values"]
    assert row["marked"]  # a line through one point would not be seen


def test_values_that_are_none_are_counted_and_shown_as_not_measured(study: Study, tmp_path: Path) -> None:
    def put(frame: pl.DataFrame, column: str, value: float, rows: int = 1) -> pl.DataFrame:
        return frame.with_columns(pl.when(pl.int_range(pl.len()) < rows).then(value).otherwise(column).alias(column))

    tables = replace(
        study,
        accuracy=put(study.accuracy, "answer_loss", float("nan"), 2),
        divergence=put(study.divergence, "value", float("inf"), 3),
        lens=study.lens.with_columns(value=pl.when(pl.col("metric") == "depth").then(float("nan")).otherwise("value")),
        connectivity=put(study.connectivity, "value", float("inf"), 4),
        barriers=put(study.barriers, "barrier", float("nan"), 2).with_columns(barrier=pl.col("barrier").fill_nan(None)),
        training=put(study.training, "value", float("nan"), 5),
    )
    text = page(tables, tmp_path)
    for said in ("2 of answer_loss in accuracy.parquet", "3 of value in divergence.parquet",
                 "4 of value in connectivity.parquet", "5 of value in training.parquet"):  # fmt: skip
        assert said in text
    assert not any("not finite" in one for one in findings(study).warnings)


def test_no_name_makes_a_figure_warn(tmp_path: Path) -> None:
    """One that no axis has room for, others in scripts that the drawing's font has not, control characters, markup."""
    long = "a-name-that-no-axis-has-room-for " * 8
    names = (long, "日本語の名前 👩‍🚀 \u202e\u05d0", "$\\alpha$ \x00\x07\x1b{}%_^<b>")
    runs = [BASE, *(RunInfo(name, "sft", 0, place, 1e-3) for place, name in enumerate(names))]
    tables = make_study(runs)
    accuracy, mcnemar = (
        frame.with_columns(pl.col("benchmark").replace("heldout", f"{names[2]}{long}"))
        for frame in (tables.accuracy, tables.mcnemar)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_report(replace(tables, accuracy=accuracy, mcnemar=mcnemar), tmp_path)
    for figure in (tmp_path / "figures").glob("*.svg"):
        text = figure.read_text(encoding="utf-8")
        assert not any(ord(character) < 32 and character not in "\n\r\t" for character in text)
        ElementTree.fromstring(text)
        assert figure.with_suffix(".png").stat().st_size > 5000


def test_norms_of_any_size_are_written_out(study: Study, tmp_path: Path) -> None:
    """SFT's update 1e30 times as large, DPO's as small."""
    sizes = pl.col("metric").is_in(["norm", "singular_value"])
    factor = pl.when(pl.col("run") == "sft").then(1e30).otherwise(1e-30)
    ratio = pl.when(pl.col("metric") == "norm_ratio").then(1e60).otherwise("value")
    tables = replace(
        study,
        spectra=study.spectra.with_columns(value=pl.when(sizes).then(pl.col("value") * factor).otherwise("value")),
        pair_metrics=study.pair_metrics.with_columns(value=ratio),
    )
    text = page(tables, tmp_path)
    assert "| 2.80×10³⁰ |" in text
    assert "| 2.10×10⁻³¹ |" in text
    assert "| 1.00×10⁻⁶⁰ |" in text  # DPO's norm over SFT's


def test_numbers_read_as_what_they_are() -> None:
    assert [number(value, 3) for value in (float("inf"), float("-inf"), float("nan"), None)] == [
        "not finite", "not finite", "not measured", "not measured",
    ]  # fmt: skip
    assert [significant(value) for value in (float("inf"), 0.0)] == ["not finite", "0"]
    assert [number(value, 2) for value in (999_999.0, 1e6, -1.25e30)] == ["999999.00", "1.00×10⁶", "-1.25×10³⁰"]
    assert number(1_500_000, 0) == "1500000"  # a count
    assert [size(value, 3) for value in (2.68, 0.18, 0.0042, 3.1e-9, 0.0, None)] == [
        "2.680", "0.180", "0.00420", "3.10×10⁻⁹", "0.000", "not measured",
    ]  # fmt: skip


def test_rewards_that_tell_nothing_apart_are_said() -> None:
    def said(rows: int, correct: int, mixed: int) -> str:
        counts = {"rows": rows, "prompts": rows // 4, "correct": correct, "mixed_groups": mixed}
        return " ".join(uniform_rewards(counts))

    assert said(8, 8, 0).startswith("Every rollout is correct (8 of 8), so no method has anything to choose")
    assert said(8, 0, 0).startswith("No rollout is correct (0 of 8): SFT and DFT imitate wrong answers")
    assert said(8, 4, 0).startswith("No problem has both right and wrong rollouts")
    assert said(8, 4, 1).startswith("Only 1 of 2 problems have both right and wrong rollouts (mixed groups)")
    assert said(800, 700, 99).endswith("Raise rollouts.prompts, or change rollouts.temperature.")
    assert said(800, 700, 100) == ""
    assert list(uniform_rewards({})) == []


def test_a_loss_that_ends_above_its_start_is_named(study: Study) -> None:
    def curve(values: list[float], method: str = "sft") -> Study:
        training = pl.DataFrame(
            {"run": ["sft"] * len(values), "step": range(1, len(values) + 1), "metric": ["loss"] * len(values),
             "value": values}
        )  # fmt: skip
        return replace(study, runs=[BASE, replace(SFT, method=method)], training=training)

    rising = [2.0, 2.5, 2.2, 2.4, 3.0, 9.0, 20.0, 30.0, 41.0, 29.0]  # first four at most 2.5, the last four are 30
    (said,) = risen_losses(curve(rising))
    assert said.startswith("The training loss ended above its start: sft (2.00 to 30.0).")
    assert not list(risen_losses(curve(rising[:7])))  # too short to tell
    assert not list(risen_losses(curve(rising, "online_grpo")))
    assert not list(risen_losses(curve([2.0, 2.5, 2.2, 2.4, 2.45, 2.5, 2.5, 2.5])))  # within the first four's scatter
    assert not list(risen_losses(curve([-1.0, -2.0, -4.0, -8.0, -16.0, -32.0, -64.0, -128.0])))


def test_one_update_twice_is_no_floor_and_no_evidence() -> None:
    runs = [BASE, SFT, RunInfo("sft-order1", "sft", 0, 1, 1e-3), RunInfo("rft", "rft", 0, 0, 1e-3)]
    tables = make_study(runs)
    one = {"cosine": 1.0, "norm_ratio": 1.0, "orthogonal_fraction": 0.0, "orthogonal_fraction_reverse": 0.0}

    def equal(*names: str) -> Study:
        pair = pl.col("run_a").is_in(names) & pl.col("run_b").is_in(names)
        value = pl.col("metric").replace_strict(one, default=None, return_dtype=pl.Float64())
        frame = tables.pair_metrics.with_columns(
            value=pl.when(pair & value.is_not_null()).then(value).otherwise("value")
        )
        return replace(tables, pair_metrics=frame)

    assert tables.geometry.floor is not None
    replicates = equal("sft", "sft-order1")
    view = replicates.geometry
    assert (view.floor, view.replicate_pairs["order"]) == (None, ())
    assert any(one.startswith("One and the same update: sft and sft-order1.") for one in findings(replicates).warnings)
    methods = equal("sft", "rft")
    assert any("One and the same update: sft and rft." in one for one in findings(methods).warnings)


def test_rollouts_that_nobody_expects_are_counted() -> None:
    graded = pl.DataFrame(
        {"problem_id": [*"aaab"], "prompt": ["q"] * 4, "completion": ["x\x00\x85", "y\n\t", "y\n\t", "y\n\t"],
         "completion_ids": [[1], [1, 2], [1, 2], [1]], "answer": ["7"] * 4, "extracted": [None] * 4,
         "reward": [0.0, 1.0, 0.0, 0.0]},
        schema_overrides={"extracted": pl.String},
    )  # fmt: skip
    record = rollout_record(graded)
    assert record["odd"] == {"repeated": 1, "contradictory": 2, "one_token": 2, "control_characters": 1}
    assert {one["completion"] for one in record["examples"]} == {
        "x\N{SYMBOL FOR NULL}\N{REPLACEMENT CHARACTER}",
        "y\n\t",
    }


def test_a_run_that_did_not_move_has_no_direction_though_nothing_is_beside_it() -> None:
    one = make_study([BASE, SFT])
    norm = pl.when(pl.col("metric") == "norm").then(0.0).when(pl.col("metric") == "effective_rank").then(None)
    view = (still := replace(one, spectra=one.spectra.with_columns(value=norm.otherwise("value")))).geometry
    assert view.zero == {"sft"}
    table = headline_table(still)
    (sft,) = (dict(zip(table.header, row, strict=True)) for row in table.rows if row[0].text == "sft")
    seen = [sft[title].text for title in ("Cosine to sft", "Norm of update", "Effective rank")]
    assert seen == ["undefined (zero update)", "0.000", "undefined (zero update)"]
