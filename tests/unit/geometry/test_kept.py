"""What is made once and read again: the same numbers, and anything that is wrong with a file makes them anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tasks.geometry.chance import kept as room
from tasks.geometry.chance.kept import kept
from tasks.geometry.updates import random_subspaces as null

ARRAY = np.array([[1.0, -0.5], [np.pi, 1e-300]])


def refuse() -> np.ndarray:
    raise AssertionError("made again")


def test_the_second_time_it_is_read(state: Path) -> None:
    np.testing.assert_array_equal(kept("a", (2, 2), lambda: ARRAY), ARRAY)
    np.testing.assert_array_equal(kept("a", (2, 2), refuse), ARRAY)
    [file] = (state / "nulls").iterdir()
    assert np.__version__ in file.name


@pytest.mark.parametrize(
    "damage",
    [lambda b: b[:-1], lambda b: b"", lambda b: bytes(len(b)), lambda b: b[:3] + bytes([b[3] ^ 1]) + b[4:]],
    ids=["cut short", "empty", "zeros", "one bit"],
)
def test_a_torn_file_is_made_again(state: Path, damage) -> None:
    kept("a", (2, 2), lambda: ARRAY)
    [file] = (state / "nulls").iterdir()
    file.write_bytes(damage(file.read_bytes()))
    np.testing.assert_array_equal(kept("a", (2, 2), lambda: 2 * ARRAY), 2 * ARRAY)
    np.testing.assert_array_equal(kept("a", (2, 2), refuse), 2 * ARRAY)
    assert len(list((state / "nulls").iterdir())) == 1


def test_another_name_is_another_array_and_a_large_one_is_not_kept(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept("a", (2, 2), lambda: ARRAY)
    np.testing.assert_array_equal(kept("b", (2, 2), lambda: -ARRAY), -ARRAY)
    monkeypatch.setattr(room, "LARGEST_FILE", 31)
    np.testing.assert_array_equal(kept("a", (2, 2), lambda: 3 * ARRAY), 3 * ARRAY)


def test_where_nothing_can_be_written_it_is_made_each_time(state: Path) -> None:
    state.mkdir()
    (state / "nulls").write_text("a file where the folder would be")
    np.testing.assert_array_equal(kept("a", (2, 2), lambda: ARRAY), ARRAY)
    np.testing.assert_array_equal(kept("a", (2, 2), lambda: 2 * ARRAY), 2 * ARRAY)


def test_nulls_that_are_kept_are_those_that_are_drawn(state: Path) -> None:
    width = null.KEPT_FROM
    for make, arguments in ((null._overlaps, (0, 30, 40, width)), (null._pool, (0, 30, "least", 40, width, 5))):
        found = [make.__wrapped__(*arguments) for _ in range(2)]
        first, second = (one if isinstance(one, np.ndarray) else one[0] for one in found)
        np.testing.assert_array_equal(first, second)
    assert len(list((state / "nulls").iterdir())) == 2
    small = null._overlaps.__wrapped__(0, 30, 40, width - 1)
    assert small.shape == (30, width - 1, width - 1)
    assert len(list((state / "nulls").iterdir())) == 2
