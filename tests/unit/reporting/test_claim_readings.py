"""How claims are read from the tables: hand-worked spreads, intervals, paths and thirds of a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy.stats import t, ttest_ind

from tasks.core.results import RunInfo
from tasks.evaluation.accuracy import accuracy_table, mcnemar_table
from tasks.reporting.claims.claim import Part
from tasks.reporting.claims.measured import KIND, Measured, Missing, Noise, order_groups, pooled
from tasks.reporting.claims.pair_readings import LEADING, matched_dpo, order, overlap_gap, pairs, rates, seeds
from tasks.reporting.claims.readings import (
    accuracy,
    against_direction,
    barrier,
    cka_fall,
    cka_last,
    cka_lowest,
    depth_range,
    drawdown,
    later_third,
    rank_above,
    seed_barriers,
    welch,
)
from tasks.reporting.claims.rules import higher, lower, same
from tasks.reporting.views.study import Study


def one(parts: list[Part]) -> Measured:
    assert len(parts) == 1
    assert isinstance(parts[0], Measured), parts
    return parts[0]


def why(parts: list[Part]) -> list[str]:
    return [part.why for part in parts if isinstance(part, Missing)]


def test_spread_pools_the_squares_of_runs_of_one_method() -> None:
    values = {"a": 1.0, "b": 3.0, "c": 10.0, "d": 10.0, "e": 13.0}
    # squares about the means 2 and 11: 1 + 1 and 1 + 1 + 4; 8 on 1 + 2 degrees of freedom, a difference has twice that
    found = pooled([("a", "b"), ("c", "d", "e")], [values.get])
    assert found is not None
    assert (found.rms, found.df, found.largest) == (pytest.approx((2 * 8 / 3) ** 0.5, rel=1e-15), 3, 3.0)
    assert found.half_width == pytest.approx(t.ppf(0.975, 3) * found.rms, rel=1e-12)
    # One pair: the difference itself, times 12.7.
    single = pooled([("a", "b")], [values.get, lambda run: 2 * values[run]])
    assert single is not None
    assert single.rms == pytest.approx(((4 + 16) / 2) ** 0.5, rel=1e-15)
    assert single.half_width == pytest.approx(12.7062047 * single.rms, rel=1e-8)
    assert pooled([], [values.get]) is pooled([("a", "x")], [values.get]) is None


def test_groups_join_runs_of_several_orders(build_study: Callable[..., Study]) -> None:
    runs = [RunInfo(f"sft-{i}", "sft", 0, i, 1e-3) for i in range(3)] + [RunInfo("rft", "rft", 0, 0, 1e-3)]
    view = build_study(runs=[RunInfo("base", "base", 0, 0, 0.0), *runs]).geometry
    assert order_groups(view) == [("sft-0", "sft-1", "sft-2")]


def test_welchs_interval_is_scipys() -> None:
    a, b = [0.8, 0.9, 0.85, 0.7], [0.5, 0.55, 0.58]
    expected = ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert welch(a, b) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert welch([1.0], [0.0, 0.5]) == (None, None)


def test_pairs_have_the_floor_of_their_kind_and_largest_k(study: Study) -> None:
    found = one(list(pairs("angle_left", ("sft", "dpo"), k=LEADING)(study)))
    # Of 1, 5 and 8: all 8 dimensions of the rank are the whole update.
    assert found.detail.startswith("k = 5, percentile 96.8 of random subspaces, lr 1e-3 against 1e-4")
    assert found.value == pytest.approx(0.8 * 88.7967, abs=1e-4)  # .8 arccos .021
    assert found.noise is not None
    assert found.noise.low == pytest.approx(0.8 * 12.8386, abs=1e-4)  # .8 arccos .975
    # Whichever way round the frame has the pair: the orthogonal fraction of the first outside the second.
    turned = one(list(pairs("orthogonal_fraction", ("dft", "sft"))(study)))
    assert turned.value == pytest.approx((1 - 0.765**2) ** 0.5 / 2, rel=1e-12)
    assert why(list(pairs("cosine", ("kto", "sft"))(study))) == ["no run of kto"]


def test_gaps_are_paired_layer_by_layer(study: Study) -> None:
    upper, lower = ("sft", "rft"), ("sft", "dft")
    found = one(list(order("cosine", [upper], [lower])(study)))
    layers = [study.geometry.by_layer(*pair, "cosine") for pair in (upper, lower)]
    gaps = [layers[0][layer] - layers[1][layer] for layer in range(4)]
    half = t.ppf(0.975, 3) * float(np.std(gaps, ddof=1)) / 2  # of four layers
    assert found.value == pytest.approx(0.193, rel=1e-12)
    assert (found.low, found.high) == pytest.approx((0.193 - half, 0.193 + half), rel=1e-9)
    assert len(list(order("cosine", [upper, ("sft", "rift")], [lower], [("sft", "dpo")])(study))) == 3
    gap = one(list(overlap_gap(("sft", "dft"))(study)))
    assert gap.value == pytest.approx(0.765**0.25 - 0.765**0.5, rel=1e-12)


def test_seeds_and_rates_are_found_by_what_differs(study: Study, build_study: Callable[..., Study]) -> None:
    assert "init_replicates" in why(list(seeds("cosine")(study)))[0]
    assert "sweep" in why(list(rates("cosine")(study)))[0]
    assert "matched=dpo" in why(list(matched_dpo("cosine")(study)))[0]
    assert "init_replicates" in why(seed_barriers(study))[0]
    runs = [
        RunInfo("base", "base", 0, 0, 0.0),
        RunInfo("sft", "sft", 0, 0, 1e-3),
        RunInfo("rft", "sft", 1, 0, 1e-3),  # .958 to sft
        RunInfo("dft", "sft", 0, 0, 1e-4),  # .765
        RunInfo("dpo", "dpo", 0, 0, 1e-3),  # -.021
    ]
    found = build_study(runs=runs)
    assert one(list(seeds("cosine")(found))).value == 0.958
    assert one(list(rates("cosine")(found))).value == 0.765
    # The larger rate first: sft over dft, which the frame has as it is.
    assert (one(list(rates("norm_ratio")(found))).what, one(list(rates("norm_ratio")(found))).value) == (
        "sft ~ dft",
        1.25,
    )
    assert one(list(matched_dpo("cosine")(found))).value == -0.021
    assert one(seed_barriers(found)).value == pytest.approx(0.2 * 0.042, rel=1e-9)  # h = .2 (1 - .958)


def test_ranks_differ_by_more_than_another_order_of_the_data(study: Study) -> None:
    ranks = {"sft": 5.0, "sft-order1": 5.02, "rft": 5.1, "dpo": 7.0}
    own = (pl.col("metric") == "effective_rank") & pl.col("run").is_in(list(ranks))
    spectra = study.spectra.with_columns(
        value=pl.when(own).then(pl.col("run").replace_strict(ranks, default=0.0)).otherwise("value")
    )
    found = one(list(rank_above(["dpo"], ["rft"])(replace(study, spectra=spectra))))
    assert found.value == pytest.approx(1.9 / 5, rel=1e-12)
    assert found.low == pytest.approx((1.9 - 12.7062047 * 0.02) / 5, rel=1e-8)
    assert found.noise == Noise(KIND, 0.0, pytest.approx(0.02 / 5, rel=1e-9), 1)
    alone = replace(study, spectra=spectra, runs=[run for run in study.runs if run.run != "sft-order1"])
    found = one(list(rank_above(["dpo"], ["rft"])(alone)))
    assert (found.low, found.high, found.noise) == (None, None, None)
    assert "no interval" in found.detail


def test_depths_are_shares_of_the_layers(study: Study) -> None:
    # runs 1 and 6 of the made-up study: 2 + 1/8 and 2 + 6/8, of 4 layers; the replicate is run 7, 6/8 from sft
    found = one(list(depth_range("sft", "rft", "dpo")(study)))
    assert (found.what, found.value) == ("dpo less sft", (5 / 8) / 4)
    assert found.noise == Noise(KIND, 0.0, 0.1875, 1)
    assert found.low == 0.0


def test_thirds_of_the_layers(study: Study) -> None:
    layers = (pl.col("module") == "*") & pl.col("layer").is_not_null()
    own = layers & (pl.col("metric") == "orthogonal_fraction_reverse")
    frame = study.pair_metrics.with_columns(value=pl.when(own).then(0.1 * pl.col("layer")).otherwise("value"))
    found = one(list(later_third("offline_grpo", "sft")(replace(study, pair_metrics=frame))))
    # Four layers: the last is .3, the middle two .1 and .2.
    assert found.value == pytest.approx(0.15, rel=1e-12)
    assert (found.low, found.n) == (None, 4)
    assert "2 layers in each third" in found.detail
    six = pl.concat(
        [frame, frame.filter(own, pl.col("layer") < 2).with_columns(pl.col("layer") + 4, pl.col("value") + 0.4)]
    )
    found = one(list(later_third("offline_grpo", "sft")(replace(study, pair_metrics=six))))
    expected = ttest_ind([0.4, 0.5], [0.2, 0.3], equal_var=False).confidence_interval(0.95)
    assert (found.value, found.low) == (pytest.approx(0.2, rel=1e-12), pytest.approx(expected.low, rel=1e-9))


def test_a_path_against_its_direction(study: Study) -> None:
    assert drawdown([1.0, 3.0, 2.0, 2.5, 1.5, 4.0]) == 1.5
    assert drawdown([1.0, 2.0]) == 0.0

    def with_path(losses: list[float]) -> Study:
        kept = study.connectivity.filter(~((pl.col("run_a") == "sft") & (pl.col("run_b") == "offline_grpo")))
        n = len(losses) - 1
        rows = [("sft", "offline_grpo", False, "boxed", i / n, loss, 60, 900) for i, loss in enumerate(losses)]
        path = pl.DataFrame(rows, schema=study.connectivity.schema, orient="row")
        return replace(study, connectivity=pl.concat([kept, path]))

    rises = one(list(against_direction("sft", "offline_grpo", 1)(with_path([2.0, 3.0, 2.5, 4.0]))))
    # .5 back of 2; the barrier's band reaches .004 to either side, for two points
    assert (rises.value, rises.high) == (0.25, pytest.approx(0.25 + 0.008 / 2, rel=1e-9))
    assert one(list(against_direction("sft", "offline_grpo", -1)(with_path([2.0, 3.0, 2.5, 4.0])))).value == 1.0
    # Read from the other end, as the frame does not have it.
    assert one(list(against_direction("offline_grpo", "sft", -1)(with_path([2.0, 3.0, 4.0])))).value == 0.0
    assert "different loss" in why(list(against_direction("sft", "offline_grpo", 1)(with_path([2.0, 3.0, 2.0]))))[0]


def test_barriers_by_reading_and_scale(study: Study) -> None:
    rise = 0.2 * (1 - 0.981 * -0.021)
    found = one(list(barrier("rift", "dpo")(study)))
    assert (found.value, found.n) == (pytest.approx(rise, rel=1e-9), 60)
    assert found.low == pytest.approx(rise - 0.004, rel=1e-9)
    assert found.noise is not None
    assert found.noise.high == pytest.approx(0.2 * 0.025, rel=1e-9)  # sft and its replicate
    assert one(list(barrier("dpo", "rift", matched=True)(study))).value == pytest.approx(rise / 10, rel=1e-9)


def test_cka_with_the_spread_of_another_order(study: Study) -> None:
    last = list(cka_last(("sft", "rift"), ("rift", "offline_grpo"))(study))
    # 1 - 4/20 (1 - .981)
    assert isinstance(last[0], Measured)
    assert last[0].value == pytest.approx(1 - 0.2 * 0.019, rel=1e-12)
    # To x: .2 cosine(sft, x) (1 - .975) when sft gives way to its replicate; x is rft, dft, rift, offline_grpo, dpo.
    moves = [0.2 * 0.025 * x for x in (0.958, 0.765, 0.981, 0.804, -0.021)]
    rms = (sum(move**2 for move in moves) / 5) ** 0.5
    assert last[0].low == pytest.approx(last[0].value - 12.7062047 * rms, rel=1e-8)
    assert last[0].high == 1.0
    assert last[0].noise == Noise(KIND, 0.0, pytest.approx(max(moves), rel=1e-9), 1)
    assert one(list(cka_lowest("sft", "rift")(study))).value == last[0].value
    # Layers 1 and 2 before 8/3, then 3 and 4: the mean falls by two layers' worth, .05 (1 - cosine) each.
    fall = one(list(cka_fall(("dft", "dpo"))(study)))
    assert fall.value == pytest.approx(0.1 * (1 + 0.765 * 0.021), rel=1e-9)
    assert why(list(cka_last(("sft", "kto"))(study))) == ["no run of kto"]


def test_no_tables_no_readings(study: Study) -> None:
    empty = replace(study, cka=study.cka.clear(), lens=study.lens.clear(), barriers=study.barriers.clear())
    for read in (cka_lowest("sft", "rift"), depth_range("sft"), barrier("rift", "dpo")):
        parts = list(read(empty))
        assert len(why(parts)) == len(parts) == 1


ACCURACY = (
    accuracy(("dpo", "base")),
    accuracy(*((name, "base") for name in ("sft", "rft", "dft"))),
    accuracy(("dpo", "sft"), ("dpo", "rft")),
)


def with_run(study: Study, info: RunInfo, answers: str, flipped: int = 0) -> Study:
    """``study`` with one more run that answers as ``answers`` does, but for the first ``flipped`` problems."""
    columns = ("run", "method", "seed", "data_seed", "lr")
    own = study.items.filter(run=answers).with_columns(pl.lit(getattr(info, name)).alias(name) for name in columns)
    own = own.with_columns(correct=pl.col("correct") ^ (pl.int_range(pl.len()).over("benchmark") < flipped))
    items = pl.concat([study.items, own.select(study.items.columns).cast(dict(study.items.schema))])
    return replace(study, runs=[*study.runs, info], items=items, accuracy=accuracy_table(items),
                   mcnemar=mcnemar_table(items))  # fmt: skip


def test_more_runs_change_no_claim_on_accuracy(build_study: Callable[..., Study], study: Study) -> None:
    """A replicate with the same answers, a teacher and an instructed base; one with other answers changes the interval,
    by the spread that it shows, and no p."""
    alone = build_study(runs=study.runs[:-1])
    more = with_run(alone, RunInfo("dpo-order1", "dpo", 0, 1, 1e-4), "dpo")
    more = with_run(more, RunInfo("teacher", "teacher", None, None, None), "sft", 30)
    more = with_run(more, RunInfo("base-instructed", "base-instructed", None, None, None), "sft", 50)
    unlike = with_run(alone, RunInfo("dpo-order1", "dpo", 0, 1, 1e-4), "dpo", 25)
    for read in ACCURACY:
        before, after, spread = (list(read(tables)) for tables in (alone, more, unlike))
        for one, two, three in zip(before, after, spread, strict=True):
            assert isinstance(one, Measured)
            assert isinstance(two, Measured)
            assert isinstance(three, Measured)
            assert (one.value, one.p, one.parts) == (two.value, two.p, two.parts) == (three.value, three.p, three.parts)
            assert (two.low, two.high) == pytest.approx((one.low, one.high), abs=3e-4)  # t on 401 degrees
            for rule in (same(), higher(), lower()):
                assert rule.judge(one).verdict == rule.judge(two).verdict
            assert one.low is not None
            assert three.low is not None
            assert three.low < one.low - 0.005
            assert one.detail.endswith("interval of these two models: no training was repeated")
            assert "interval with the spread of repeated trainings (1 degree of freedom)" in three.detail


def test_a_difference_that_a_repeat_might_not_show_says_so(study: Study) -> None:
    frame = study.mcnemar.with_columns(
        p_value=0.01, low=0.01, high=0.05, method_low=-0.01, method_high=0.07, repeats=2, detectable=0.031
    )
    found = one(list(accuracy(("base", "dpo"))(replace(study, mcnemar=frame))))
    assert (found.low, found.high) == (-0.01, 0.07)
    assert found.detail == (
        "Held-out, exact p = 0.010 and not 0, detectable 3.1, interval with the spread of repeated trainings (2 "
        "degrees of freedom); these two models differ, a repeat of the training might not"
    )
    assert higher().judge(found).verdict == "no power"
