from __future__ import annotations

import numpy as np
import pytest

from tasks.geometry.delta import Factors
from tasks.geometry.factored import factor
from tests.geometry.updates import SHAPES, Shape, dense, random_factors


@pytest.mark.parametrize("shape", SHAPES)
def test_factored_svd_is_an_svd_of_the_dense_update(shape: Shape) -> None:
    out, n_in, r, _ = shape
    factors = random_factors(np.random.default_rng(0), out, n_in, r)
    svd = factor(factors)
    n = min(out, n_in, r)
    assert (svd.U.shape, svd.s.shape, svd.V.shape, svd.rank) == ((out, n), (n,), (n_in, n), n)
    scale = svd.s[0]
    np.testing.assert_allclose(svd.U * svd.s @ svd.V.T, dense(factors), atol=1e-13 * scale)
    np.testing.assert_allclose(svd.U.T @ svd.U, np.eye(n), atol=1e-13)
    np.testing.assert_allclose(svd.V.T @ svd.V, np.eye(n), atol=1e-13)
    np.testing.assert_allclose(svd.s, np.linalg.svd(dense(factors), compute_uv=False)[:n], atol=1e-13 * scale)


def test_rank_counts_directions_above_rounding() -> None:
    rng = np.random.default_rng(0)
    b, a = rng.standard_normal((20, 3)), rng.standard_normal((3, 15))
    doubled = Factors(np.hstack([b, b]), np.vstack([a, 2 * a]), 1.0)  # = 3 B A: six columns, three directions
    assert factor(doubled).rank == 3
    np.testing.assert_array_equal(factor(doubled).s[3:], 0.0)
    cancelled = Factors(np.hstack([b, b]), np.vstack([a, -a]), 1.0)  # = 0 with large factors
    assert factor(cancelled).rank == 0
    assert factor(Factors(np.zeros_like(b), a, 2.0)).rank == 0
    tiny = Factors(1e-150 * b, a, 1.0)
    assert factor(tiny).rank == 3
