from __future__ import annotations

import time

import numpy as np
import polars as pl
import pytest

from tasks.core.errors import InputError
from tasks.core.frames import PAIR_METRICS_FRAME
from tasks.core.results import RunInfo
from tasks.geometry.angles import principal_angles
from tasks.geometry.cosine import cosine_matrix, module_cosines, norm, orthogonal_fraction
from tasks.geometry.delta import LoraDelta
from tasks.geometry.tables.build import geometry, pair_frame
from tasks.geometry.updates.metrics import PAIR_METRICS
from tests.lab.updates import deltas, infos, mapped, random_delta, zero

A, B = RunInfo("sft", "sft", 0, 0, 1e-3), RunInfo("dpo", "dpo", 1, 2, 1e-4)
KS = (1, 2, 10)
Values = dict[tuple[str, str, int | None], float | None]


def values_of(frame: pl.DataFrame) -> Values:
    """Values of modules and of everything; those of layers and projections are in test_pair_table.py."""
    whole = pl.col("layer").is_null() & pl.col("projection").is_null()
    kept = frame.filter((pl.col("module") != "*") | whole)
    keys = kept.select("module", "metric", "k").rows()
    assert len(set(keys)) == len(keys)
    return dict(zip(keys, kept["value"], strict=True))


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
    for name, cosine in module_cosines(a, b).items():
        assert values[name, "cosine", None] == pytest.approx(cosine, abs=1e-15)
    for side in ("left", "right"):
        for k in (1, 2):
            largest = {name: angles[-1] for name, angles in principal_angles(a, b, k, side).items()}
            for name, angle in largest.items():
                assert values[name, f"angle_{side}", k] == pytest.approx(angle, rel=1e-13)
            smallest = {name: angles[0] for name, angles in principal_angles(a, b, k, side).items()}
            for name, angle in smallest.items():
                assert values[name, f"angle_min_{side}", k] == pytest.approx(angle, rel=1e-13)
            assert values["*", f"angle_{side}", k] == pytest.approx(np.median(list(largest.values())), rel=1e-13)


def test_an_adapter_and_its_scaled_self() -> None:
    a, _ = deltas((12, 9, 4, 2))
    twice = mapped(a, lambda f: f._replace(scale=2 * f.scale))
    expected = {
        "cosine": 1.0,
        "norm_ratio": 0.5,
        "orthogonal_fraction": 0.0,
        "orthogonal_fraction_reverse": 0.0,
        "lora_a_cosine": 1.0,
        "u1_overlap": 1.0,
        "v1_overlap": 1.0,
        "angle_left": 0.0,
        "angle_right": 0.0,
        "angle_min_left": 0.0,
        "angle_min_right": 0.0,
        "phi_left": 1.0,
        "phi_right": 1.0,
    }
    for metric, value in pair_frame(a, twice, A, B, KS).select("metric", "value").rows():
        assert value == pytest.approx(expected[metric], abs=1e-12)


def test_zero_modules_are_null_and_left_out_of_means_and_medians() -> None:
    a, b = deltas((12, 9, 4, 4))
    first, *rest = a.modules
    partly = LoraDelta({first: zero(a).modules[first], **{name: a.modules[name] for name in rest}})
    values = values_of(pair_frame(partly, b, A, B, (1,)))
    # A zero module is wholly outside any span: the reference's part there is orthogonal, its own direction undefined.
    # Its lora_A is there before the first step.
    lora_a = [d.modules[first].A.ravel() for d in (a, b)]
    defined = {
        "norm_ratio": 0.0,
        "orthogonal_fraction_reverse": 1.0,
        "lora_a_cosine": lora_a[0] @ lora_a[1] / np.linalg.norm(lora_a[0]) / np.linalg.norm(lora_a[1]),
    }
    for name, metric in PAIR_METRICS.items():
        value = values[first, name, 1 if metric.by_k else None]
        assert value == (pytest.approx(defined[name]) if name in defined else None), name
    for metric, k, over in (("angle_left", 1, np.median), ("phi_right", 1, np.mean), ("u1_overlap", None, np.mean)):
        assert values["*", metric, k] == pytest.approx(over([values[name, metric, k] for name in rest]))
    nothing = values_of(pair_frame(zero(a), zero(b), A, B, (1,)))
    assert {key[1] for key, value in nothing.items() if value is not None} == {"lora_a_cosine"}


def test_only_shared_modules_are_compared_and_bad_input_is_named() -> None:
    a, b = deltas((12, 9, 4, 2))
    first = next(iter(b.modules))
    part = LoraDelta({first: b.modules[first], "model.layers.0.mlp.up_proj": b.modules[first]})
    values = values_of(pair_frame(a, part, A, B, KS))
    assert {module for module, _, _ in values} == {first, "*"}
    assert values["*", "cosine", None] == pytest.approx(values[first, "cosine", None], abs=1e-15)
    assert values["*", "norm_ratio", None] == pytest.approx(values[first, "norm_ratio", None], rel=1e-15)
    with pytest.raises(InputError, match="no module in common"):
        pair_frame(a, LoraDelta({"other": b.modules[first]}), A, B, KS)
    with pytest.raises(InputError, match=r"geometry\.ks"):
        pair_frame(a, b, A, B, (0, 1))


def test_all_pairs_of_the_default_study_take_a_second_or_so() -> None:
    # 7 adapters, 16 modules of 128 x 128, r = 8: 21 pairs. Seconds of processors: the clock of a busy machine says
    # nothing.
    rng = np.random.default_rng(0)
    adapters = [random_delta(rng, 128, 128, 8, modules=16) for _ in range(7)]
    start = time.process_time()
    frame = geometry(adapters, infos(7), (1, 5, 8)).pair_metrics
    seconds = time.process_time() - start
    assert frame.select("run_a", "run_b").n_unique() == 21
    assert frame["value"].null_count() == 0
    assert seconds < 2
