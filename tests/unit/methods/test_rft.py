"""RFT: the correct rollouts only; ``distinct`` keeps one of equal ones."""

from __future__ import annotations

import pytest

from tasks.core.errors import InputError
from tasks.methods.rft import Rft
from tests.lab.groups import graded, weights


def test_keeps_the_correct_rollouts_and_their_places_in_the_stream() -> None:
    selected = Rft().select(graded(("p1", 0.0), ("p1", 1.0), ("p2", 1.0), ("p1", 0.0), ("p2", 1.0)))
    assert weights(selected) == {1: 1.0, 2: 1.0, 4: 1.0}
    assert selected["completion_ids"].to_list() == [[101, 2], [102, 2], [104, 2]]


def test_distinct_drops_what_equals_an_earlier_correct_one_of_the_same_problem() -> None:
    rows = [
        ("p1", 0.0, "3 + 4 = 8"),
        ("p1", 1.0, "3 + 4 = 7"),
        ("p1", 1.0, " 3  + 4\n= 7 "),  # equal but for white space
        ("p2", 1.0, "3 + 4 = 7"),  # another problem's
        ("p1", 1.0, "4 + 3 = 7"),  # another order
        ("p2", 1.0, "3 + 4 = 7"),
    ]
    frame = graded(*((problem, reward) for problem, reward, _ in rows), texts=[text for _, _, text in rows])
    assert list(weights(Rft(distinct=True).select(frame))) == [1, 3, 4]
    assert list(weights(Rft().select(frame))) == [1, 2, 3, 4, 5]


def test_a_wrong_rollout_with_the_same_text_does_not_hide_a_correct_one() -> None:
    frame = graded(("p1", 0.0), ("p1", 1.0), texts=["same", "same"])
    assert list(weights(Rft(distinct=True).select(frame))) == [1]


@pytest.mark.parametrize("distinct", [False, True])
def test_refuses_rollouts_without_a_correct_one(distinct: bool) -> None:
    with pytest.raises(InputError, match=r"^methods: rft needs at least one rollout with reward 1 .*--set methods="):
        Rft(distinct=distinct).select(graded(("p1", 0.0), ("p2", 0.0)))
