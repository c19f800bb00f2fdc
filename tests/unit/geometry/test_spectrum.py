from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

from tasks.core.frames import SPECTRA
from tasks.core.results import RunInfo
from tasks.geometry.cosine import norm
from tasks.geometry.delta import Factors, LoraDelta
from tasks.geometry.spectrum import effective_rank, participation_rank, singular_values, stable_rank
from tasks.geometry.tables.build import spectrum_frame
from tests.lab.updates import SHAPES, Shape, deltas, dense, zero

INFO = RunInfo("sft", "sft", 1, 2, 1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values_equal_the_dense_ones(shape: Shape) -> None:
    a, _ = deltas(shape)
    for name, s in singular_values(a).items():
        expected = np.linalg.svd(dense(a.modules[name]), compute_uv=False)[: len(s)]
        np.testing.assert_allclose(s, expected, atol=1e-13 * expected[0])


def test_ranks_by_hand() -> None:
    # s = (2, 1, 1): p = (1/2, 1/4, 1/4).  H = 1/2 ln 2 + 2 * 1/4 ln 4 = 1.5 ln 2, exp(H) = 2^1.5.
    # participation: 4^2 / (4 + 1 + 1) = 8/3.  stable: (4 + 1 + 1) / 4 = 1.5.
    s = np.array([2.0, 1.0, 1.0])
    assert effective_rank(s) == pytest.approx(2**1.5, rel=1e-15)
    assert participation_rank(s) == pytest.approx(8 / 3, rel=1e-15)
    assert stable_rank(s) == 1.5


@pytest.mark.parametrize("rank", [effective_rank, participation_rank, stable_rank])
def test_rank_limits(rank) -> None:  # type: ignore[no-untyped-def]
    assert rank(np.full(5, 3.0)) == pytest.approx(5.0, rel=1e-14)
    assert rank(np.array([7.0, 0.0, 0.0])) == pytest.approx(1.0, rel=1e-15)
    s = np.array([5.0, 3.0, 0.2])
    assert rank(1e-200 * s) == pytest.approx(rank(s), rel=1e-13)
    assert rank(s[::-1]) == pytest.approx(rank(s), rel=1e-15)
    assert math.isnan(rank(np.zeros(3)))
    assert math.isnan(rank(np.array([])))


def test_participation_never_exceeds_the_entropy_form() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        s = rng.exponential(size=8)
        assert 1 <= participation_rank(s) <= effective_rank(s) <= 8


def test_spectrum_frame_rows() -> None:
    # dW of layer 0: diag(2, 1); layer 10: diag(3, 3). |dW|^2 = 4 + 1 + 9 + 9 = 23.
    eye = np.eye(2)
    delta = LoraDelta(
        {
            "model.layers.10.self_attn.v_proj": Factors(3 * eye, eye, 1.0),
            "model.layers.0.self_attn.q_proj": Factors(np.diag([1.0, 0.5]), eye, 2.0),
        }
    )
    frame = spectrum_frame(delta, INFO)
    assert dict(frame.schema) == SPECTRA
    assert frame.select("run", "method", "seed", "data_seed", "lr").unique().rows() == [("sft", "sft", 1, 2, 1e-3)]
    values = {(row["module"], row["metric"], row["k"]): row["value"] for row in frame.iter_rows(named=True)}
    q, v = delta.modules
    assert q.endswith("q_proj")
    assert [values[q, "singular_value", k] for k in (1, 2)] == pytest.approx([2.0, 1.0], rel=1e-15)
    assert values["*", "norm", None] == pytest.approx(math.sqrt(23), rel=1e-15)
    assert values["*", "norm", None] == pytest.approx(norm(delta), rel=1e-15)
    assert values[q, "stable_rank", None] == pytest.approx(1.25, rel=1e-15)
    assert values["*", "stable_rank", None] == pytest.approx((1.25 + 2) / 2, rel=1e-15)
    # p = (2/3, 1/3): participation 9/5, and 2 in layer 10.
    assert values["*", "participation_rank", None] == pytest.approx((9 / 5 + 2) / 2, rel=1e-15)
    assert values[v, "effective_rank", None] == pytest.approx(2.0, rel=1e-15)
    places = frame.select("module", "layer", "projection").unique().rows()
    assert set(places) == {(q, 0, "q_proj"), (v, 10, "v_proj"), ("*", None, None)}
    assert len(frame) == 2 * (2 + 1 + 3) + 4


def test_zero_modules_are_null_and_left_out_of_means() -> None:
    a, _ = deltas((12, 9, 4, 2))
    first, *rest = a.modules
    partly = LoraDelta({first: zero(a).modules[first], **{name: a.modules[name] for name in rest}})
    ranks = spectrum_frame(partly, INFO).filter(pl.col("metric") == "effective_rank")
    values = dict(ranks.select("module", "value").rows())
    assert values[first] is None
    assert values["*"] == pytest.approx(np.mean([values[name] for name in rest]))
    nothing = spectrum_frame(zero(a), INFO).filter(pl.col("module") == "*")
    assert dict(nothing.select("metric", "value").rows()) == {
        "norm": 0.0,
        "effective_rank": None,
        "participation_rank": None,
        "stable_rank": None,
    }
