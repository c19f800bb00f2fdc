"""Every measure against its dense definition, and what must not change it."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from tasks.geometry.delta import Factors, LoraDelta
from tasks.geometry.tables.build import pair_frame, spectrum_frame
from tasks.geometry.updates.metrics import PAIR_METRICS
from tests.definitions.deviations import case_deviations
from tests.lab.adapter_cases import CASES
from tests.lab.updates import deltas, infos, mapped, rotation

EPS = np.finfo(np.float64).eps
A, B = infos(2)
Values = dict[tuple[str, int | None, str | None, str, int | None], float]


def tolerance(case: str, metric: str) -> float:
    """Bounds near rounding: a few hundred eps, in degrees for angles.

    An angle just above .57 degrees comes from its cosine and loses eps / sin(.57 degrees), a smallest angle just above
    .0018 degrees (2e-10 of a degree). With factors of condition c
    rounding is c eps: in the product of two such factors, and in the last directions of a spectrum that falls by c.
    """
    usual = 2e-10 if metric.startswith("angle_min") else 5e-12 if metric.startswith("angle") else 2e-13
    if not case.startswith("condition"):
        return usual
    rounding = EPS * float(case.split()[1])
    return usual + (np.rad2deg(rounding) if metric.startswith("angle") else rounding)


@pytest.mark.parametrize("case", CASES)
def test_every_measure_equals_its_dense_definition(case: str) -> None:
    found = case_deviations(case)
    assert set(PAIR_METRICS) < set(found)
    assert {metric: value for metric, value in found.items() if not value <= tolerance(case, metric)} == {}


def pair_values(a: LoraDelta, b: LoraDelta) -> Values:
    return _values(pair_frame(a, b, A, B, (1, 2)))


def spectrum_values(a: LoraDelta) -> Values:
    return _values(spectrum_frame(a, A))


def _values(frame: pl.DataFrame) -> Values:
    rows = frame.select("module", "layer", "projection", "metric", "k", pl.col("value").fill_null(np.nan)).rows()
    return {row[:-1]: row[-1] for row in rows}


def assert_same(found: Values, expected: Values, atol: float = 1e-12, without: tuple[str, ...] = ()) -> None:
    assert set(found) == set(expected)
    kept = [key for key in expected if key[3] not in without]
    assert len(kept) > 50 or not without
    np.testing.assert_allclose([found[key] for key in kept], [expected[key] for key in kept], atol=atol, rtol=1e-12)


@pytest.fixture
def pair() -> tuple[LoraDelta, LoraDelta]:
    return deltas((24, 18, 5, 3))


def test_rotating_both_output_and_both_input_spaces_changes_nothing(pair: tuple[LoraDelta, LoraDelta]) -> None:
    rng = np.random.default_rng(1)
    left, right = rotation(rng, 24), rotation(rng, 18)
    turned = [mapped(delta, lambda f: Factors(left @ f.B, f.A @ right, f.scale)) for delta in pair]
    assert_same(pair_values(*turned), pair_values(*pair), atol=5e-12)
    assert_same(spectrum_values(turned[0]), spectrum_values(pair[0]))


def test_rotating_one_of_them_changes_what_compares_directions(pair: tuple[LoraDelta, LoraDelta]) -> None:
    a, b = pair
    left = rotation(np.random.default_rng(1), 24)
    there, back = pair_values(a, b), pair_values(mapped(a, lambda f: f._replace(B=left @ f.B)), b)
    changed = {key[3] for key in there if abs(there[key] - back[key]) > 1e-3}
    fractions = {"orthogonal_fraction", "orthogonal_fraction_reverse"}
    assert changed == fractions | {"cosine", "u1_overlap", "angle_left", "angle_min_left", "phi_left"}


def test_swapping_the_adapters_swaps_what_has_a_direction_only(pair: tuple[LoraDelta, LoraDelta]) -> None:
    a, b = pair
    swapped: Values = {}
    for (*place, metric, k), value in pair_values(b, a).items():
        if metric == "norm_ratio":
            value = 1 / value
        if metric.startswith("orthogonal_fraction"):
            metric = {"orthogonal_fraction": "orthogonal_fraction_reverse"}.get(metric, "orthogonal_fraction")
        swapped[(*place, metric, k)] = value
    assert_same(swapped, pair_values(a, b), without=("lora_a_cosine",))


@pytest.mark.parametrize("factor", [-1.0, 1e-6, 1e6])
def test_sign_and_scale_change_the_cosines_sign_and_the_ratio_only(
    pair: tuple[LoraDelta, LoraDelta], factor: float
) -> None:
    a, b = pair
    expected = pair_values(a, b)
    for key in expected:
        if key[3] == "norm_ratio":
            expected[key] *= abs(factor)
        if key[3] == "cosine":
            expected[key] *= np.sign(factor)
    scaled = mapped(a, lambda f: f._replace(scale=factor * f.scale))
    assert_same(pair_values(scaled, b), expected)
    assert_same(pair_values(mapped(a, lambda f: f._replace(B=factor * f.B)), b), expected)


@pytest.mark.parametrize("condition", [1e0, 1e3, 1e6, 1e9])
def test_other_factors_of_the_same_update_change_lora_a_cosine_only(condition: float) -> None:
    a, b = deltas((24, 18, 5, 5))
    rng = np.random.default_rng(2)
    spread = np.diag(np.geomspace(1, 1 / condition, 5))
    mix = rotation(rng, 5) @ spread @ rotation(rng, 5)
    other = mapped(a, lambda f: Factors(f.B @ mix, np.linalg.solve(mix, f.A), f.scale))
    found, expected = pair_values(other, b), pair_values(a, b)
    # Solving for the new A rounds it to condition * eps, and so the update that the two factors have.
    assert_same(found, expected, atol=1e-11 + 200 * EPS * condition, without=("lora_a_cosine",))
    key = ("*", None, None, "lora_a_cosine", None)
    assert abs(found[key] - expected[key]) > 1e-2
