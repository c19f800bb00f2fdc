from __future__ import annotations

import numpy as np
import pytest

from tasks.geometry.delta import Dense, Factors
from tasks.geometry.factored import DENSE_LIMIT, factor
from tests.lab.updates import SHAPES, Shape, dense, frame_of, random_factors, rotation


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


@pytest.mark.parametrize("condition", [1e1, 1e3, 1e4, 1e6, 1e8, 1e9, 1e12, 1e15, np.inf])
def test_bases_are_orthonormal_for_any_condition_of_the_factors(condition: float) -> None:
    # One Cholesky QR loses condition^2 eps: from 1e8 on it has no correct digit, and two of them need less than that.
    rng = np.random.default_rng(1)
    spread = np.geomspace(1, 1 / condition, 6) if np.isfinite(condition) else np.array([1.0, 1, 1, 1, 0, 0])
    b = frame_of(rng, 300, 6) * spread @ rotation(rng, 6)
    update = Factors(b, rng.standard_normal((6, 80)), 0.3)
    svd = factor(update)
    n = svd.rank
    np.testing.assert_allclose(svd.U[:, :n].T @ svd.U[:, :n], np.eye(n), atol=1e-14)
    np.testing.assert_allclose(svd.V[:, :n].T @ svd.V[:, :n], np.eye(n), atol=1e-14)
    np.testing.assert_allclose(svd.U * svd.s @ svd.V.T, dense(update), atol=1e-14 * svd.s[0])
    if condition <= 1e12:
        assert n == 6


@pytest.mark.parametrize("size", [1e-200, 1e-160, 1e-30, 1e30, 1e150])
def test_factors_of_any_size(size: float) -> None:
    update = random_factors(np.random.default_rng(2), 40, 30, 4)
    expected, found = factor(update), factor(update._replace(B=size * update.B))
    np.testing.assert_allclose(found.s, size * expected.s, rtol=1e-12)
    np.testing.assert_allclose(np.abs(np.sum(found.U * expected.U, axis=0)), 1.0, rtol=1e-13)


@pytest.mark.filterwarnings("ignore:overflow")
def test_squares_that_overflow_are_no_reason_for_a_wrong_basis() -> None:
    update = random_factors(np.random.default_rng(2), 40, 30, 4)
    basis = factor(update._replace(B=1e160 * update.B)).U
    np.testing.assert_allclose(basis.T @ basis, np.eye(4), atol=1e-14)


def test_of_a_large_dense_update_only_the_leading_directions_are_had() -> None:
    rng = np.random.default_rng(3)
    out, n_in = DENSE_LIMIT + 6, DENSE_LIMIT + 20
    s = np.geomspace(8, 1e-2, 12)
    u, v = frame_of(rng, out, 12), frame_of(rng, n_in, 12)
    for w, basis in ((u * s @ v.T, u), (v * s @ u.T, v)):
        leading = factor(Dense(w), 5)
        assert not leading.complete
        np.testing.assert_allclose(leading.s, s[:5], rtol=1e-12)
        np.testing.assert_allclose(np.abs(np.sum(leading.U * basis[:, :5], axis=0)), 1.0, rtol=1e-12)
        whole = factor(Dense(w), 20)  # all that is there, and found to be all
        assert whole.complete
        assert whole.rank == 12
        np.testing.assert_allclose(whole.s[:12], s, rtol=1e-11)
    nothing = factor(Dense(np.zeros((out, n_in))), 5)
    assert (nothing.rank, nothing.s.shape, nothing.complete) == (0, (5,), True)


@pytest.mark.parametrize("spread", [1.0, 2.0, 30.0])
def test_well_conditioned_columns_are_kept_as_they_are_and_others_are_orthonormalised_first(spread: float) -> None:
    rng = np.random.default_rng(4)
    b = frame_of(rng, 200, 8) * np.geomspace(1, spread, 8) @ rotation(rng, 8)
    update = Factors(b, frame_of(rng, 90, 8).T, 1.0)
    left = factor(update).left
    assert (left.columns is update.B) == (spread < 10)  # the mean inverse eigenvalue is 1, 1.2 and 34
    np.testing.assert_allclose(left.formed.T @ left.formed, np.eye(8), atol=1e-14)
    if spread > 10:
        np.testing.assert_allclose(left.columns.T @ left.columns, np.eye(8), atol=1e-12)
