from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from tasks.core.errors import InputError
from tasks.geometry.angles import overlap, principal_angles, subspace_angles
from tasks.geometry.delta import Factors, LoraDelta
from tasks.geometry.factored import factor
from tests.lab.updates import SHAPES, Shape, deltas, dense, mapped, rotation, zero

SIDES = ["left", "right"]


def dense_bases(factors: Factors, k: int, side: str) -> np.ndarray:
    u, _, vt = np.linalg.svd(dense(factors))
    return u[:, :k] if side == "left" else vt[:k].T


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("shape", SHAPES)
def test_angles_equal_scipys_between_the_dense_singular_subspaces(shape: Shape, side: str) -> None:
    a, b = deltas(shape)
    for k in {1, 2, 5, min(shape)} & set(range(1, min(shape) + 1)):
        for name, angles in principal_angles(a, b, k, side).items():
            bases = [dense_bases(delta.modules[name], k, side) for delta in (a, b)]
            expected = np.rad2deg(scipy.linalg.subspace_angles(*bases))[::-1]
            # scipy 1.17 applies its small-angle mask in the wrong order, so its own tiny angles are good to 1e-6 only.
            np.testing.assert_allclose(angles, expected, atol=2e-6)
            np.testing.assert_allclose(angles[expected > 1e-3], expected[expected > 1e-3], atol=1e-10)


def test_hadamard_halves_are_orthogonal() -> None:
    # Outside golden (scipy's own example): the two halves of a Hadamard matrix's columns meet at 90 degrees.
    halves = scipy.linalg.hadamard(4).astype(float)
    weights = np.diag([2.0, 1.0]) @ np.eye(2, 5)
    a, b = (LoraDelta({"m": Factors(half, weights, 1.0)}) for half in (halves[:, :2], halves[:, 2:]))
    np.testing.assert_allclose(principal_angles(a, b, 2)["m"], [90.0, 90.0], atol=1e-13)
    np.testing.assert_allclose(principal_angles(a, b, 2, "right")["m"], [0.0, 0.0], atol=1e-13)


@pytest.mark.parametrize("angle", [0.0, 1e-13, 1e-9, 1e-5, 0.009, 0.011, 0.5, 1.2, np.pi / 2 - 1e-7, np.pi / 2])
def test_known_angles_from_tiny_to_right(angle: float) -> None:
    # Plane of a: (e1, e2), s = (3, 1). Plane of b: (cos e1 + sin e3, e2). Angles: 0 and `angle`.
    e = np.eye(6)
    weights = np.diag([3.0, 1.0]) @ np.eye(2, 4)
    turned = np.cos(angle) * e[:, 0] + np.sin(angle) * e[:, 2]
    a = LoraDelta({"m": Factors(e[:, :2], weights, 1.0)})
    b = LoraDelta({"m": Factors(np.column_stack([turned, e[:, 1]]), weights, 1.0)})
    np.testing.assert_allclose(principal_angles(a, b, 2)["m"], [0.0, np.rad2deg(angle)], rtol=1e-11, atol=1e-13)
    assert principal_angles(a, b, 1)["m"] == pytest.approx([np.rad2deg(angle)], rel=1e-11, abs=1e-13)


def test_tiny_and_large_angles_together() -> None:
    # Three planes (e_i, e_{i+3}) turned by 1e-9, 1.0 and 1.2 rad: a case in which scipy returns 0 for the first.
    known = [1e-9, 1.0, 1.2]
    e = np.eye(6)
    turned = np.column_stack([np.cos(x) * e[:, i] + np.sin(x) * e[:, i + 3] for i, x in enumerate(known)])
    weights = np.diag([3.0, 2.0, 1.0]) @ np.eye(3, 4)
    a, b = (LoraDelta({"m": Factors(basis, weights, 1.0)}) for basis in (e[:, :3], turned))
    np.testing.assert_allclose(principal_angles(a, b, 3)["m"], np.rad2deg(known), rtol=1e-12)


def test_k_above_the_rank_is_cut_to_it_and_a_zero_update_has_no_angle() -> None:
    a, b = deltas((12, 9, 4, 2))
    name = next(iter(a.modules))
    np.testing.assert_array_equal(principal_angles(a, b, 10)[name], principal_angles(a, b, 2)[name])
    flat_b = mapped(b, lambda f: f._replace(B=f.B[:, :1] * np.array([[1.0, 2.0]])))  # numerical rank 1
    assert principal_angles(a, flat_b, 10)[name].shape == (1,)
    assert principal_angles(a, zero(b), 10)[name].shape == (0,)
    assert overlap(factor(zero(b).modules[name]), factor(a.modules[name]), "left").rank == 0


def test_bad_arguments_are_named() -> None:
    a, b = deltas((12, 9, 4, 2))
    with pytest.raises(InputError, match="k is 0"):
        principal_angles(a, b, 0)
    with pytest.raises(InputError, match="k is 0"):
        subspace_angles(overlap(*(factor(next(iter(d.modules.values()))) for d in (a, b)), "left"), 0)
    with pytest.raises(InputError, match="side is 'up'"):
        principal_angles(a, b, 1, "up")  # type: ignore[arg-type]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("shape", SHAPES)
def test_identical_updates_have_no_angle_whatever_their_scale_sign_and_factorisation(shape: Shape, side: str) -> None:
    a, _ = deltas(shape)
    rng = np.random.default_rng(2)
    mix = rotation(rng, shape[2]) * np.linspace(1, 2, shape[2])
    same = mapped(a, lambda f: Factors(f.B @ mix, np.linalg.solve(mix, f.A), -40 * f.scale))
    for angles in principal_angles(a, same, 3, side).values():
        np.testing.assert_allclose(angles, 0.0, atol=1e-11)
