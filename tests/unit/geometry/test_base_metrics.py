from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from tasks.core.errors import InputError
from tasks.geometry.base.intruders import intruder_dimensions
from tasks.geometry.base.metrics import BASE_METRICS, base_module, base_rows, moved, overall_rows
from tasks.geometry.base.shift import spectrum_shift
from tasks.geometry.base.sparsity import bfloat16, update_sparsity
from tasks.geometry.delta import Dense, Factors, Update
from tests.lab.updates import dense, random_factors, rotation

Values = dict[tuple[str, int | None], float]
SHAPES = [(12, 9, 4), (9, 12, 4), (16, 16, 1), (5, 7, 8), (64, 40, 6)]
KS = (1, 2, 5)


def measure(weight: np.ndarray, update: Update, ks: tuple[int, ...] = KS) -> Values:
    rows = base_rows("m", base_module(weight), update, ks)
    values = {(name, k): value for _, name, k, value in rows}
    assert len(values) == len(rows)
    return values


def example(shape: tuple[int, int, int], size: float, seed: int = 0) -> tuple[np.ndarray, Factors]:
    rng = np.random.default_rng(seed)
    out, n_in, r = shape
    factors = random_factors(rng, out, n_in, r)
    weight = rng.standard_normal((out, n_in))
    scale = size * factors.scale * np.linalg.norm(weight) / np.linalg.norm(dense(factors))
    return weight, factors._replace(scale=scale)


# --- against slow definitions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1e-3, 0.3, 3.0])
def test_every_metric_equals_its_dense_definition(shape: tuple[int, int, int], size: float) -> None:
    weight, factors = example(shape, size)
    after = weight + dense(factors)
    found = measure(weight, factors)
    assert {name for name, _ in found} == set(BASE_METRICS)
    (u, s, vt), (u_after, s_after, vt_after) = (scipy.linalg.svd(w, full_matrices=False) for w in (weight, after))
    for k in KS:
        count = sum(
            max(abs(float(u_after[:, j] @ u[:, i])) for i in range(u.shape[1])) < 0.5 for j in range(k)
        )  # the paper's loop
        assert found["intruder_dimensions", k] == count
        for side, a, b in (("left", u[:, :k], u_after[:, :k]), ("right", vt[:k].T, vt_after[:k].T)):
            gap = np.linalg.norm(a @ a.T - b @ b.T, 2)  # sine of the largest angle: projectors' distance
            angle = found[f"base_rotation_{side}", k]
            assert math.sin(math.radians(angle)) == pytest.approx(gap, abs=1e-12)
            assert angle == pytest.approx(np.rad2deg(scipy.linalg.subspace_angles(a, b)).max(), abs=1e-6)
    expected = math.sqrt(sum((x - y) ** 2 for x, y in zip(s, s_after, strict=True))) / math.sqrt(sum(s**2))
    assert found["spectrum_shift", None] == pytest.approx(expected, rel=1e-9)
    w, w_after = (torch.from_numpy(x).to(torch.bfloat16).double() for x in (weight, after))
    same = ((w_after - w).abs() <= 1e-3 * torch.maximum(w.abs(), w_after.abs())).double().mean()
    assert found["update_sparsity", None] == pytest.approx(float(same), abs=1e-15)
    change, (out, n_in) = dense(factors), weight.shape
    for k in KS:
        inside = sum((u[:, i] @ change @ vt[j]) ** 2 for i in range(k) for j in range(k))
        share = inside / np.sum(change**2) * out * n_in / k**2
        assert found["principal_energy", k] == pytest.approx(share, rel=1e-9)
    order, tenth = np.argsort(np.abs(weight), axis=None), weight.size / 10
    energies = np.ravel(change)[order] ** 2
    smallest = np.sum(energies[: int(tenth)]) + (tenth - int(tenth)) * energies[int(tenth)]
    assert found["small_weight_energy", None] == pytest.approx(smallest / np.sum(energies) * 10, rel=1e-9)


def test_a_dense_update_gives_what_its_factors_give() -> None:
    weight, factors = example((12, 9, 3), 0.2)
    found, other = measure(weight, factors), measure(weight, Dense(dense(factors)))
    assert found.keys() == other.keys()
    assert all(found[key] == pytest.approx(other[key], rel=1e-12, abs=1e-12) for key in found)


def test_bfloat16_is_torchs() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal(20_000) * 10.0 ** rng.uniform(-44, 38, 20_000)
    exact = rng.standard_normal(2_000).astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    ties = (exact | np.uint32(0x8000)).view(np.float32).astype(np.float64)  # half-way between two bfloat16 numbers
    special = np.array([0.0, -0.0, 3.4e38, -3.4e38, 1e39, 1e-45, 1.0 + 2**-8, 1.0 + 3 * 2**-8])
    for array in (values, ties, exact.view(np.float32).astype(np.float64), special, values.reshape(200, 100).T):
        expected = torch.from_numpy(np.ascontiguousarray(array)).to(torch.bfloat16).double().numpy()
        np.testing.assert_array_equal(bfloat16(array), expected)


# --- by hand -------------------------------------------------------------------------------------------------------


def test_hand_worked_scaling_and_turning() -> None:
    """W0 = diag(4, 2). Adding diag(3, 0) gives diag(7, 2): nothing turns, the shift is 3 / sqrt(20).

    Turning W0's rows by 60 degrees (W+ = R W0) keeps the singular values; u1 and u2 turn by 60 degrees, v1 and v2 not
    at all. |cos| with u1 and u2 is .5 and .866 at least once for either: no intruder, as .866 > .5.
    """
    weight = np.diag([4.0, 2.0])
    found = measure(weight, Dense(np.diag([3.0, 0.0])), (1, 2, 3))
    assert found["spectrum_shift", None] == pytest.approx(3 / math.sqrt(20), rel=1e-15)
    assert found["base_rotation_left", 1] == pytest.approx(0, abs=1e-12)
    assert found["intruder_dimensions", 2] == 0
    assert found["update_sparsity", None] == 3 / 4  # 4 -> 7 is seen; 2, 0 and 0 stay
    assert not any(k == 3 for _, k in found)  # a 2 x 2 weight has two directions
    angle = math.radians(60)
    turned = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) @ weight
    found = measure(weight, Dense(turned - weight), (1, 2))
    assert found["base_rotation_left", 1] == pytest.approx(60, rel=1e-12)
    assert found["base_rotation_right", 1] == pytest.approx(0, abs=1e-7)
    assert found["base_rotation_left", 2] == pytest.approx(0, abs=1e-7)  # both span the plane
    assert found["spectrum_shift", None] == pytest.approx(0, abs=1e-15)
    assert found["intruder_dimensions", 2] == 0


def test_an_intruder_made_by_hand() -> None:
    """W0 (9 x 5) has the left directions e1..e5; adding 10 e9 e5^T puts e9 first: exactly one intruder.

    An equal mix of e1..e5 has cosine 1 / sqrt(5) = .447 < .5 with each: also an intruder, though inside their span;
    of e1..e4 it has .5, which is not below .5.
    """
    weight = np.zeros((9, 5))
    weight[:5] = np.diag([5.0, 4.0, 3.0, 2.0, 1.0])
    update = np.zeros((9, 5))
    update[8] = 10 * np.eye(5)[4]
    found = measure(weight, Dense(update), (1, 2, 5))
    assert [found["intruder_dimensions", k] for k in (1, 2, 5)] == [1, 1, 1]
    assert found["base_rotation_left", 1] == pytest.approx(90, abs=1e-6)
    mixes = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]).T / np.sqrt([5, 4])
    assert [intruder_dimensions(mixes[:, :k]) for k in (1, 2)] == [1, 1]
    assert intruder_dimensions(-mixes, epsilon=0.51) == 2
    assert intruder_dimensions(np.empty((0, 3))) == 3


def test_a_direction_that_the_base_only_has_at_singular_value_zero_is_an_intruder() -> None:
    """The thin SVD of a rank-1 weight fills up with arbitrary directions, which must not hide one."""
    weight = np.diag([1.0, 0.0, 0.0])
    found = measure(weight, Dense(np.diag([0.0, 5.0, 0.0])), (1, 2, 3))
    assert [found["intruder_dimensions", k] for k in (1, 2)] == [1, 1]
    assert math.isnan(found["intruder_dimensions", 3])  # W0 + dW has two directions
    assert found["base_rotation_left", 1] == pytest.approx(90, rel=1e-12)
    assert math.isnan(found["base_rotation_left", 2])  # W0 has one


def test_sparsity_by_hand() -> None:
    """bfloat16 near 1 has steps of 2^-7: 1 + 2^-9 rounds back to 1, 1 + 2^-7 does not; 0 -> 1e-6 is seen."""
    base, after = np.array([[1.0, 1.0], [0.0, 0.0]]), np.array([[1 + 2**-9, 1 + 2**-7], [0.0, 1e-6]])
    assert update_sparsity(base, after) == 0.5
    assert update_sparsity(base, after, tolerance=0.01) == 0.75  # 2^-7 = .0078 of 1.0078


# --- limits and invariances ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["random", "identity", "zero"])
def test_no_update_changes_nothing_also_where_singular_values_repeat(kind: str) -> None:
    rng = np.random.default_rng(0)
    weight = {"random": rng.standard_normal((7, 6)), "identity": np.eye(6), "zero": np.zeros((7, 6))}[kind]
    update = random_factors(rng, weight.shape[0], 6, 2)
    found = measure(weight, update._replace(B=np.zeros_like(update.B)))
    assert found["update_sparsity", None] == 1
    for k in KS:
        if kind == "zero":
            assert math.isnan(found["base_rotation_left", k])
            assert math.isnan(found["intruder_dimensions", k])
        else:
            assert found["intruder_dimensions", k] == 0
            assert found["base_rotation_left", k] == pytest.approx(0, abs=1e-12)
            assert found["base_rotation_right", k] == pytest.approx(0, abs=1e-12)
    assert math.isnan(found["spectrum_shift", None]) if kind == "zero" else found["spectrum_shift", None] == 0


def test_no_update_takes_the_bases_own_decomposition() -> None:
    """A second SVD of a weight with repeated singular values may turn their vectors (other threads, a GPU)."""
    base = base_module(np.eye(4))
    assert moved(base, Dense(np.zeros((4, 4))), 2).s is base.s
    assert moved(base, Dense(np.full((4, 4), 1e-9)), 2).s is not base.s


def test_small_rotations_are_resolved() -> None:
    """u1 turns by ~1e-9 degrees, far below what arccos resolves (1e-6)."""
    angle = 1e-9
    weight = np.diag([3.0, 1.0])
    after = np.array([[1.0, -math.radians(angle)], [math.radians(angle), 1.0]]) @ weight
    found = measure(weight, Dense(after - weight), (1,))
    assert found["base_rotation_left", 1] == pytest.approx(angle, rel=1e-4)


def test_rotating_input_and_output_or_scaling_both_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    weight, factors = example((14, 10, 3), 0.5)
    left, right = rotation(rng, 14), rotation(rng, 10)
    found = measure(weight, factors)
    turned = measure(left @ weight @ right, Factors(left @ factors.B, factors.A @ right, factors.scale))
    scaled = measure(-4 * weight, factors._replace(scale=-4 * factors.scale))  # a power of two: same bfloat16 mantissas
    for key, value in found.items():
        assert scaled[key] == pytest.approx(value, abs=1e-10)
        if key[0] not in ("update_sparsity", "small_weight_energy"):  # which look at single entries
            assert turned[key] == pytest.approx(value, abs=1e-10)


def test_transposing_swaps_left_and_right() -> None:
    weight, factors = example((14, 10, 3), 0.5)
    found = measure(weight, factors)
    other = measure(weight.T, Factors(factors.A.T, factors.B.T, factors.scale))
    for k in KS:
        assert other["base_rotation_left", k] == pytest.approx(found["base_rotation_right", k], abs=1e-10)
    for name in ("spectrum_shift", "update_sparsity"):
        assert other[name, None] == pytest.approx(found[name, None], rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_bounds_of_mirsky_and_wedin(seed: int) -> None:
    weight, factors = example((14, 10, 3), 0.05, seed)
    parts = moved(base_module(weight), factors, 10)
    found = measure(weight, factors)
    update = dense(factors)
    assert 0 < found["spectrum_shift", None] <= np.linalg.norm(update) / np.linalg.norm(weight)
    for k in KS:
        gap = max(parts.base.s[k - 1] - parts.s[k], parts.s[k - 1] - parts.base.s[k])
        angle = max(found["base_rotation_left", k], found["base_rotation_right", k])
        assert gap <= 0 or math.sin(math.radians(angle)) <= np.linalg.norm(update, 2) / gap * (1 + 1e-12)


# --- rows ----------------------------------------------------------------------------------------------------------


def test_the_base_is_not_changed_and_serves_several_adapters() -> None:
    weight, factors = example((12, 9, 3), 0.5)
    base, copy = base_module(weight), weight.copy()
    first = base_rows("m", base, factors)
    base_rows("m", base, Dense(np.ones((12, 9))))
    assert base_rows("m", base, factors) == first
    np.testing.assert_array_equal(base.W, copy)


def test_overall_is_mean_median_or_by_entries() -> None:
    values = {"a": 1.0, "b": 2.0, "c": 9.0, "d": math.nan}
    entries = {"a": 10, "b": 10, "c": 20, "d": 5}
    for name, expected in (
        ("intruder_dimensions", 4.0),
        ("spectrum_shift", 4.0),
        ("base_rotation_left", 2.0),
        ("base_rotation_right", 2.0),
    ):
        assert overall_rows([(m, name, 3, v) for m, v in values.items()], entries) == [("*", name, 3, expected)]
    rows = [(m, "update_sparsity", None, v) for m, v in (("a", 0.5), ("c", 1.0))]
    assert overall_rows(rows, entries) == [("*", "update_sparsity", None, pytest.approx(25 / 30))]


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match=r"the update is \(3, 2\), the base weight \(2, 3\)"):
        measure(np.ones((2, 3)), Dense(np.ones((3, 2))))
    with pytest.raises(InputError, match=r"^geometry\.ks is"):
        measure(np.ones((2, 3)), Dense(np.ones((2, 3))), (0, 1))


def test_spectrum_shift_of_equal_spectra_is_zero_and_of_a_zero_base_undefined() -> None:
    assert spectrum_shift(np.array([3.0, 4.0]), np.array([3.0, 4.0])) == 0
    assert spectrum_shift(np.array([4.0, 3.0]), np.array([8.0, 6.0])) == 1
    assert math.isnan(spectrum_shift(np.zeros(2), np.ones(2)))
