from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from tasks.core.results import RunInfo
from tasks.reporting.charts.curves import layer_profiles, null_profile
from tasks.reporting.tables.pairs import pair_tables
from tasks.reporting.views.floors import INITIALISATION, ORDER
from tasks.reporting.views.pairs import (
    AT_FLOOR,
    BELOW_FLOOR,
    EVERYTHING,
    IS_FLOOR,
    IS_START,
    NO_FLOOR,
    OTHER_SEED,
    PairEstimate,
    cosine_matrix,
    pairs,
)
from tasks.reporting.views.study import Study


def swapped(frame: pl.DataFrame) -> pl.DataFrame:
    """Every pair the other way round, as if b had been compared with a."""
    turned = {
        name: f"{name[:-1]}{'b' if name.endswith('a') else 'a'}" for name in frame.columns if name[-2:] in ("_a", "_b")
    }
    other = pl.col("metric").replace(
        {"orthogonal_fraction": "orthogonal_fraction_reverse", "orthogonal_fraction_reverse": "orthogonal_fraction"}
    )
    return frame.rename(turned).select(frame.columns).with_columns(metric=other)


def test_the_matrix_holds_the_frames_cosines(study: Study) -> None:
    view = study.geometry
    cosines = cosine_matrix(view)
    assert cosines.shape == (7, 7)
    assert np.array_equal(cosines, cosines.T)
    assert np.array_equal(np.diag(cosines), np.ones(7))
    names = [info.run for info in view.runs]
    for row in study.pair_metrics.filter(EVERYTHING, metric="cosine").iter_rows(named=True):
        assert cosines[names.index(row["run_a"]), names.index(row["run_b"])] == row["value"]


def test_the_floor_is_the_twins_cosine_and_judges_every_pair(study: Study) -> None:
    view = study.geometry
    info = {run.run: run for run in view.runs}
    assert view.replicate_pairs == {ORDER: (("sft", "sft-order1"),), INITIALISATION: ()}
    assert view.floor == 0.975
    standing = {name: view.standing(info[name], info["sft"]) for name in ("rft", "rift", "sft-order1")}
    # Across data orders: .958 x .975, .981 x .975; though rift's .981 in one order is above .975.
    assert standing == {"rft": BELOW_FLOOR, "rift": BELOW_FLOOR, "sft-order1": IS_FLOOR}
    assert view.standing(RunInfo("x", "x", 0, 0, 1e-3), info["sft"]) == ""


def test_a_cosine_that_equals_the_floor_is_at_it(study: Study) -> None:
    rft = pl.struct("run_a", "run_b").is_in([{"run_a": "rft", "run_b": "sft-order1"}])
    level = pl.when(rft, pl.col("metric") == "cosine").then(0.975).otherwise("value")
    view = replace(study, pair_metrics=study.pair_metrics.with_columns(value=level)).geometry
    assert view.standing(view.runs[1], view.runs[0]) == AT_FLOOR


def test_a_floor_of_several_twins_is_the_lowest(build_study: Callable[..., Study], study: Study) -> None:
    more = build_study(runs=[*study.runs, RunInfo("rft-order1", "rft", 0, 1, 1e-3)])
    view = more.geometry
    # rft~rft-order1 has .958 * 1.0 in the made-up study, below sft~sft-order1's .975
    assert view.replicate_pairs[ORDER] == (("sft", "sft-order1"), ("rft", "rft-order1"))
    assert view.floor == 0.958


def test_the_floor_does_not_judge_another_initialisation(build_study: Callable[..., Study]) -> None:
    runs = [
        RunInfo("base", "base", 0, 0, 0.0),
        RunInfo("sft", "sft", 0, 0, 1e-3),
        RunInfo("sft-order1", "sft", 0, 1, 1e-3),
        RunInfo("rift", "rift", 1, 1, 1e-3),
    ]
    view = build_study(runs=runs).geometry
    assert view.standing(view.runs[2], view.runs[0]) == OTHER_SEED


def test_the_weighted_cosine_has_floors_of_its_own(study: Study) -> None:
    """Here 1 for the replicates and .9 for all others; the plain cosines stay as they are."""
    weighted = study.pair_metrics.filter(metric="cosine").with_columns(
        metric=pl.lit("activation_cosine"), value=pl.when(run_a="sft", run_b="sft-order1").then(1.0).otherwise(0.9)
    )
    more = replace(study, pair_metrics=pl.concat([study.pair_metrics, weighted]))
    near = pair_tables(more.geometry)[0]
    plain, column = (near.header.index(title) for title in ("Cosine", "Cosine, weighted by activations"))
    rows = {row[0].text: row for row in near.rows}
    assert rows["rft"][column].text == "0.900"
    assert rows["rft"][column].subs[-2:] == ("across data orders 0.900", BELOW_FLOOR)
    assert rows["rft"][plain].subs[-2:] == ("across data orders 0.934", BELOW_FLOOR)
    assert rows["noise floor: data order"][column].text == "1.000"
    assert "Cosine, weighted by activations" not in pair_tables(study.geometry)[0].header


def test_without_a_twin_there_is_no_floor(study: Study) -> None:
    view = replace(study, runs=study.runs[:-1]).geometry
    assert view.floor is None
    assert view.standing(view.runs[1], view.runs[0]) == NO_FLOOR


def test_values_do_not_depend_on_which_run_came_first(study: Study) -> None:
    forth, back = study.geometry, replace(study, pair_metrics=swapped(study.pair_metrics)).geometry
    for metric, k in (("cosine", None), ("angle_left", 1), ("orthogonal_fraction", None)):
        assert forth.value("rft", "sft", metric, k) == back.value("rft", "sft", metric, k)
    # The fraction has a direction: of rft outside sft, which in the frame of (sft, rft) is the reverse one.
    assert forth.value("rft", "sft", "orthogonal_fraction") == pytest.approx(np.sqrt(1 - 0.958**2) / 2, rel=1e-12)
    assert forth.value("sft", "rft", "orthogonal_fraction") == pytest.approx(np.sqrt(1 - 0.958**2), rel=1e-12)


def test_pairs_begin_with_the_floor_then_the_reference(study: Study) -> None:
    ordered = [(a.run, b.run) for a, b in pairs(study.geometry)]
    assert len(ordered) == 7 * 6 // 2
    assert ordered[0] == ("sft", "sft-order1")
    assert ordered[1:6] == [("sft", name) for name in ("rft", "dft", "rift", "offline_grpo", "dpo")]


def test_a_layers_value_is_its_own_row_not_the_mean_of_its_modules(study: Study) -> None:
    profile = layer_profiles(study, "cosine")["dft"]
    assert profile.layers == [0, 1, 2, 3]
    rows = study.pair_metrics.filter(run_a="sft", run_b="dft", metric="cosine", layer=2)
    whole = rows.filter(pl.col("module") == "*")["value"].item()
    assert profile.values[2] == whole != pytest.approx(rows["value"].mean(), rel=1e-6)


def test_a_profile_has_its_nulls_of_one_k(study: Study) -> None:
    profiles = layer_profiles(study, "angle_left", 5)
    assert profiles["rft"].nulls == [87.5] * 4  # 84 + .7 * 5
    assert null_profile(profiles) == ([0, 1, 2, 3], pytest.approx([87.5] * 4, rel=1e-12))
    assert null_profile(layer_profiles(study, "norm_ratio")) == ([], [])


def test_rows_of_a_layer_or_a_projection_are_not_the_whole(study: Study) -> None:
    parts = study.pair_metrics.filter(~EVERYTHING)
    assert replace(study, pair_metrics=parts).geometry.floor is None
    assert replace(study, pair_metrics=study.pair_metrics.reverse()).geometry.floor == 0.975


def test_a_pair_comes_with_its_interval_null_and_percentile(study: Study) -> None:
    view = study.geometry
    # spread .01 * (.765 + .1)
    expected = PairEstimate(0.765, 0.765 - 0.00865, 0.765 + 0.00865, null=0.0, percentile=100.0)
    assert view.estimate("dft", "sft", "cosine") == expected
    turned = view.estimate("dft", "sft", "norm_ratio")  # 1.25 with spread .0135 as (sft, dft)
    assert (turned.value, turned.low, turned.high) == pytest.approx((0.8, 1 / 1.2635, 1 / 1.2365), rel=1e-12)
    assert turned.null is None


def test_the_common_dimensions_and_each_pairs_own(study: Study) -> None:
    view = study.geometry
    assert (view.ks, view.top("dft", "sft"), view.modules, view.layers) == ((1, 5, 8), 8, 16, 4)
    of_dpo = (pl.col("run_a") == "dpo") | (pl.col("run_b") == "dpo")
    small = study.pair_metrics.filter(~(of_dpo & (pl.col("k") > 5).fill_null(False)))  # as if dpo had rank 5
    view = replace(study, pair_metrics=small).geometry
    assert (view.ks, view.top("dpo", "sft"), view.top("rft", "sft")) == ((1, 5), 5, 8)


def test_headline_rows_hold_the_frames_values(study: Study) -> None:
    rows = {row.info.run: row for row in study.rows}
    assert next(iter(rows)) == "base"
    assert rows["base"].cosine is None
    assert rows["base"].norm is None
    assert rows["sft"].cosine == 1.0
    assert (rows["dpo"].cosine, rows["dpo"].norm, rows["dpo"].effective_rank) == (-0.021, 0.21, 6.5)
    hard = study.accuracy.filter(run="dpo", benchmark="hard").row(0, named=True)
    assert rows["dpo"].second is not None
    assert (rows["dpo"].second.correct, rows["dpo"].second.high) == (hard["correct"], hard["high"])


def test_one_look_up_tells_the_twins_apart_whichever_way_round(study: Study) -> None:
    view = replace(study.geometry, replicate_pairs={ORDER: (("a", "b"),), INITIALISATION: (("a", "c"), ("d", "b"))})
    expected = {("a", "b"): (ORDER, IS_FLOOR), ("c", "a"): (INITIALISATION, IS_START), ("a", "d"): (None, "")}
    for (a, b), (kind, label) in expected.items():
        for one, other in ((a, b), (b, a)):
            assert (view.kind(one, other), view.replicate_label(one, other)) == (kind, label)
            infos = [RunInfo(name, name, None, None, None) for name in (one, other)]
            assert view.replicate(*infos) == kind
    assert (IS_FLOOR, IS_START) == ("noise floor: data order", "noise floor: initialisation")
