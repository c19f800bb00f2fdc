from __future__ import annotations

import math

import numpy as np
import pytest

from tasks.reporting.formats import (
    NOT_MEASURED,
    learning_rate,
    listed,
    number,
    p_value,
    percent,
    points,
    points_interval,
    seconds,
)


def test_missing_values_never_print_as_zero() -> None:
    for reading in (number(None, 3), number(math.nan, 3), percent(None), points(None), points(math.nan), p_value(None)):
        assert reading == NOT_MEASURED


def test_measured_zeros_print_as_zero_without_a_sign() -> None:
    assert number(-0.0001, 3) == "0.000"
    assert percent(0.0) == "0.0"
    assert points(-0.0004) == "0.0"


def test_points_carry_their_sign() -> None:
    assert [points(0.042), points(-0.2694)] == ["+4.2", "-26.9"]


def test_an_interval_of_points_has_a_place_more() -> None:
    assert points_interval(0.0015, 0.0197) == "[+0.15, +1.97]"
    assert points_interval(-0.02004, -0.0) == "[-2.00, 0.00]"
    assert points_interval(None, 0.1) == "no interval"


def test_a_number_prints_alike_from_numpy_and_python() -> None:
    assert number(np.float64(0.975), 2) == number(0.975, 2)


@pytest.mark.parametrize(
    ("p", "text"),
    [(1.0, "1.00"), (0.051, "0.051"), (0.049, "0.049"), (0.00034, "0.0003"), (2.1e-9, "2×10⁻⁹"), (3e-12, "3×10⁻¹²")],
)
def test_p_values_keep_the_digits_that_decide(p: float, text: str) -> None:
    assert p_value(p) == text


def test_words() -> None:
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(["a"]) == "a"
    assert learning_rate(5e-7) == "5e-7"
    assert learning_rate(2.5e-4) == "2.5e-4"
    assert [seconds(0.42), seconds(268.6), seconds(3723), seconds(None)] == [
        "0.4 s",
        "4 min 29 s",
        "1 h 2 min",
        "not recorded",
    ]
