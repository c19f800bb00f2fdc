"""DPO: which pairs are made, in which order, and the loss of one."""

from __future__ import annotations

from collections import defaultdict
from math import exp, log

import numpy as np
import polars as pl
import pytest
import torch
from pydantic import ValidationError

from tasks.core.errors import InputError
from tasks.methods.common import PAIR_EXAMPLES
from tasks.methods.dpo import Dpo
from tests.definitions.losses import preference_loss
from tests.lab.groups import graded


def pairs(selected: pl.DataFrame) -> list[tuple[int, int]]:
    return list(selected.select("row", "rejected_row").iter_rows())


# p1: correct 0, 3; wrong 2, 5, 6.  p2: correct 1; wrong 4.  p3: all correct (7, 8).  p4: wrong (9).
ROWS = graded(
    ("p1", 1.0), ("p2", 1.0), ("p1", 0.0), ("p1", 1.0), ("p2", 0.0), ("p1", 0.0), ("p1", 0.0),
    ("p3", 1.0), ("p3", 1.0), ("p4", 0.0),
)  # fmt: skip


def test_product_pairs_every_correct_with_every_wrong_of_the_problem() -> None:
    selected = Dpo(max_pairs=6).select(ROWS)
    assert pairs(selected) == [(0, 2), (0, 5), (0, 6), (1, 4), (3, 2), (3, 5), (3, 6)]
    assert selected.schema == PAIR_EXAMPLES
    assert selected["prompt_ids"].to_list() == [[1, 1], [1, 1], [1, 1], [1, 2], [1, 1], [1, 1], [1, 1]]
    assert selected["chosen_ids"].to_list() == [[100 + row, 2] for row in [0, 0, 0, 1, 3, 3, 3]]
    assert selected["rejected_ids"].to_list() == [[100 + row, 2] for row in [2, 5, 6, 4, 2, 5, 6]]


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        # p1's table is 2 x 3. Diagonal 0: (0,2) (3,5); diagonal 1: (0,5) (3,6); diagonal 2: (0,6) (3,2).
        (1, [(0, 2), (1, 4)]),
        (2, [(0, 2), (1, 4), (3, 5)]),
        (3, [(0, 2), (0, 5), (1, 4), (3, 5)]),
        (4, [(0, 2), (0, 5), (1, 4), (3, 5), (3, 6)]),
        (5, [(0, 2), (0, 5), (0, 6), (1, 4), (3, 5), (3, 6)]),
    ],
)
def test_few_pairs_are_taken_along_the_diagonals(most: int, expected: list[tuple[int, int]]) -> None:
    assert pairs(Dpo(max_pairs=most).select(ROWS)) == expected


def test_zip_uses_each_completion_at_most_once() -> None:
    assert pairs(Dpo(pairs="zip").select(ROWS)) == [(0, 2), (1, 4), (3, 5)]
    assert pairs(Dpo(pairs="zip", max_pairs=1).select(ROWS)) == [(0, 2), (1, 4)]


def slow_product(frame: pl.DataFrame, most: int) -> list[tuple[int, int]]:
    """The rule in loops: diagonal by diagonal, down each, of the problem's correct x wrong table."""
    found: dict[str, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for row, (problem, reward) in enumerate(frame.select("problem_id", "reward").iter_rows()):
        found[problem][int(reward == 0.0)].append(row)
    made = []
    for right, wrong in found.values():
        table = [(right[i], wrong[(i + d) % len(wrong)]) for d in range(len(wrong)) for i in range(len(right))]
        made += table[:most]
    return sorted(made)


@pytest.mark.parametrize("seed", range(10))
def test_product_equals_the_rule_in_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    problems, rewards = rng.integers(0, 6, 40), rng.integers(0, 2, 40)
    frame = graded(*((f"p{problem}", float(reward)) for problem, reward in zip(problems, rewards, strict=True)))
    for most in (1, 3, 4, 100):
        assert pairs(Dpo(max_pairs=most).select(frame)) == slow_product(frame, most)


@pytest.mark.parametrize("rule", ["product", "zip"])
def test_refuses_rollouts_without_a_mixed_group(rule: str) -> None:
    with pytest.raises(InputError, match=r"^methods: dpo needs a problem with both .*--set methods="):
        Dpo.model_validate({"pairs": rule}).select(graded(("p1", 1.0), ("p1", 1.0), ("p2", 0.0)))


def test_loss_by_hand() -> None:
    # margins: (-1 + 3) - (-5 + 4) = 3 and (-2 + 2) - (-1 + 4) = -3; beta = 0.5
    # -log sigmoid(x) = log(1 + exp(-x)): x = 1.5 and -1.5
    losses_B = preference_loss(
        torch.tensor([-1.0, -2.0], dtype=torch.float64),
        torch.tensor([-5.0, -1.0], dtype=torch.float64),
        torch.tensor([-3.0, -2.0], dtype=torch.float64),
        torch.tensor([-4.0, -4.0], dtype=torch.float64),
        beta=0.5,
    )
    assert losses_B.tolist() == pytest.approx([log(1 + exp(-1.5)), log(1 + exp(1.5))])


def test_loss_is_log_2_where_the_policy_is_the_reference() -> None:
    chosen_B, rejected_B = torch.tensor([-3.0]), torch.tensor([-40.0])
    assert float(preference_loss(chosen_B, rejected_B, chosen_B, rejected_B, beta=0.1)) == pytest.approx(log(2))


def test_smoothing_is_given_exactly_where_the_loss_uses_it() -> None:
    for loss_type in ("robust", "exo_pair"):
        with pytest.raises(ValidationError, match=f"loss_type {loss_type} needs label_smoothing above 0"):
            Dpo.model_validate({"loss_type": loss_type})
        assert Dpo.model_validate({"loss_type": loss_type, "label_smoothing": 0.1}).label_smoothing == 0.1
    with pytest.raises(ValidationError, match="label_smoothing has no effect with loss_type sigmoid"):
        Dpo(label_smoothing=0.1)
