from __future__ import annotations

import math
import time

import numpy as np
import polars as pl
import pytest

from tasks.contracts import PAIR_METRICS_FRAME, InputError, RunInfo
from tasks.geometry.angles import principal_angles
from tasks.geometry.cosine import cosine_matrix, module_cosines, norm, orthogonal_fraction
from tasks.geometry.delta import LoraDelta
from tasks.geometry.metrics import PAIR_METRICS, pair_frame
from tests.geometry.updates import deltas, dense, mapped, random_delta, zero

A, B = RunInfo("sft", "sft", 0, 0, 1e-3), RunInfo("dpo", "dpo", 1, 2, 1e-4)
KS = (1, 2, 10)


def values_of(frame: pl.DataFrame) -> dict[tuple[str, str, int | None], float | None]:
    keys = frame.select("module", "metric", "k").rows()
    assert len(set(keys)) == len(keys)
    return dict(zip(keys, frame["value"], strict=True))


def test_frame_holds_every_metric_and_equals_the_functions() -> None:
    a, b = deltas((12, 9, 4, 2))
    frame = pair_frame(a, b, A, B, KS)
    assert dict(frame.schema) == PAIR_METRICS_FRAME
    assert set(frame["metric"]) == set(PAIR_METRICS)
    runs = frame.select("run_a", "run_b", "seed_a", "seed_b", "data_seed_a", "data_seed_b", "lr_a", "lr_b").unique()
    assert runs.rows() == [("sft", "dpo", 0, 1, 0, 2, 1e-3, 1e-4)]
    values = values_of(frame)
    assert values["*", "cosine", None] == pytest.approx(cosine_matrix([a, b])[0, 1], abs=1e-15)
    assert values["*", "norm_ratio", None] == pytest.approx(norm(a) / norm(b), rel=1e-14)
    assert values["*", "orthogonal_fraction", None] == pytest.approx(orthogonal_fraction(a, b), rel=1e-14)
    assert values["*", "orthogonal_fraction_reverse", None] == pytest.approx(orthogonal_fraction(b, a), rel=1e-14)
    for side in ("left", "right"):
        for k in (1, 2):
            largest = {name: angles[-1] for name, angles in principal_angles(a, b, k, side).items()}
            for name, angle in largest.items():
                assert values[name, f"angle_{side}", k] == pytest.approx(angle, rel=1e-14)
            assert values["*", f"angle_{side}", k] == pytest.approx(np.median(list(largest.values())), rel=1e-14)
    for name, cosine in module_cosines(a, b).items():
        assert values[name, "cosine", None] == pytest.approx(cosine, abs=1e-15)
        u, _, vt = np.linalg.svd(dense(a.modules[name]))
        other_u, _, other_vt = np.linalg.svd(dense(b.modules[name]))
        assert values[name, "u1_overlap", None] == pytest.approx(abs(u[:, 0] @ other_u[:, 0]), abs=1e-13)
        assert values[name, "v1_overlap", None] == pytest.approx(abs(vt[0] @ other_vt[0]), abs=1e-13)
        phi = np.linalg.norm(u[:, :2].T @ other_u[:, :2]) ** 2 / 2
        assert values[name, "phi_left", 2] == pytest.approx(phi, abs=1e-13)
    for metric in ("u1_overlap", "v1_overlap"):
        modules = [values[name, metric, None] for name in a.modules]
        assert values["*", metric, None] == pytest.approx(np.mean(modules), rel=1e-14)


def test_layer_and_projection_are_filled_and_k_above_the_rank_has_no_row() -> None:
    a, b = deltas((12, 9, 4, 2))
    frame = pair_frame(a, b, A, B, KS)
    assert set(frame.filter(pl.col("module") != "*").select("layer", "projection").rows()) == {
        (layer, "q_proj") for layer in range(3)
    }
    assert frame.filter(pl.col("module") == "*").select("layer", "projection").unique().rows() == [(None, None)]
    assert set(frame.filter(pl.col("metric") == "angle_left")["k"]) == {1, 2}
    assert frame.filter(pl.col("metric") == "cosine")["k"].to_list() == [None] * 4


def test_swapping_the_adapters_swaps_what_has_a_direction_only() -> None:
    a, b = deltas((12, 9, 4, 2))
    there, back = values_of(pair_frame(a, b, A, B, KS)), values_of(pair_frame(b, a, B, A, KS))
    for (module, metric, k), value in there.items():
        if metric == "norm_ratio":
            assert back[module, metric, k] == pytest.approx(1 / value, rel=1e-13)
        elif metric == "orthogonal_fraction":
            assert back[module, "orthogonal_fraction_reverse", k] == pytest.approx(value, rel=1e-13)
        elif metric != "orthogonal_fraction_reverse":
            assert back[module, metric, k] == pytest.approx(value, rel=1e-12, abs=1e-14)


def test_an_adapter_and_its_scaled_self() -> None:
    a, _ = deltas((12, 9, 4, 2))
    twice = mapped(a, lambda f: f._replace(scale=2 * f.scale))
    expected = {
        "cosine": 1.0,
        "norm_ratio": 0.5,
        "orthogonal_fraction": 0.0,
        "orthogonal_fraction_reverse": 0.0,
        "u1_overlap": 1.0,
        "v1_overlap": 1.0,
        "angle_left": 0.0,
        "angle_right": 0.0,
        "phi_left": 1.0,
        "phi_right": 1.0,
    }
    for (_, metric, _), value in values_of(pair_frame(a, twice, A, B, KS)).items():
        assert value == pytest.approx(expected[metric], abs=1e-12)


def test_zero_modules_are_null_and_left_out_of_aggregates() -> None:
    a, b = deltas((12, 9, 4, 2))
    first, *rest = a.modules
    partly = LoraDelta({first: zero(a).modules[first], **{name: a.modules[name] for name in rest}})
    values = values_of(pair_frame(partly, b, A, B, (1,)))
    # A zero module is wholly outside any span: the reference's part there is orthogonal, its own direction undefined.
    defined = {"norm_ratio": 0.0, "orthogonal_fraction_reverse": 1.0}
    for name, metric in PAIR_METRICS.items():
        value = values[first, name, 1 if metric.by_k else None]
        assert value == (pytest.approx(defined[name]) if name in defined else None), name
    kept = [values[name, "angle_left", 1] for name in rest]
    assert values["*", "angle_left", 1] == pytest.approx(np.median(kept))
    nothing = values_of(pair_frame(zero(a), zero(b), A, B, (1,)))
    assert set(nothing.values()) == {None}


def test_k_above_the_numerical_rank_is_null() -> None:
    a, b = deltas((12, 9, 4, 2))
    flat_b = mapped(b, lambda f: f._replace(B=f.B[:, :1] * np.array([[1.0, 2.0]])))
    values = values_of(pair_frame(a, flat_b, A, B, (1, 2)))
    assert values["*", "angle_left", 1] is not None
    assert values["*", "angle_left", 2] is None
    assert values["*", "phi_right", 2] is None


def test_only_shared_modules_are_compared_and_bad_input_is_named() -> None:
    a, b = deltas((12, 9, 4, 2))
    first = next(iter(b.modules))
    part = LoraDelta({first: b.modules[first], "model.layers.0.mlp.up_proj": b.modules[first]})
    values = values_of(pair_frame(a, part, A, B, KS))
    assert {module for module, _, _ in values} == {first, "*"}
    assert values["*", "cosine", None] == pytest.approx(values[first, "cosine", None], abs=1e-15)
    assert values["*", "norm_ratio", None] == pytest.approx(values[first, "norm_ratio", None], rel=1e-15)
    with pytest.raises(InputError, match="share no module"):
        pair_frame(a, LoraDelta({"other": b.modules[first]}), A, B, KS)
    with pytest.raises(InputError, match=r"geometry\.ks"):
        pair_frame(a, b, A, B, (0, 1))


def test_all_pairs_of_the_default_study_take_less_than_a_second() -> None:
    # 7 adapters, 16 modules of 128 x 128, r = 8: 21 pairs. Measured .15 s on two busy cores.
    rng = np.random.default_rng(0)
    adapters = [random_delta(rng, 128, 128, 8, modules=16) for _ in range(7)]
    start = time.perf_counter()
    frames = [pair_frame(a, b, A, B, (1, 5, 8)) for i, a in enumerate(adapters) for b in adapters[i + 1 :]]
    seconds = time.perf_counter() - start
    assert len(frames) == 21
    assert all(not math.isnan(value) for value in frames[0]["value"])
    assert seconds < 1
