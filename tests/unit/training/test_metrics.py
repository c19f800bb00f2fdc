"""A step's metrics out of those of unequal passes, by hand."""

from __future__ import annotations

import pytest

from tasks.training.metrics import Pass, of_step


def test_one_pass_is_kept_as_it_is() -> None:
    values = {"entropy": 0.1, "rewards/chosen": 0.3, "rewards/rejected": 0.1, "rewards/margins": 0.7}
    assert of_step([Pass(values, [3, 4], [True, False])]) == values


def test_rows_count_by_their_completion_tokens() -> None:
    passes = [
        Pass({"mean_token_accuracy": 0.5, "entropy": 2.0, "num_tokens": 20.0}, [1, 2, 3], [True] * 3),
        Pass({"mean_token_accuracy": 1.0, "entropy": 6.0, "num_tokens": 26.0}, [2], [True]),
    ]
    # (6 x .5 + 2 x 1) / 8 = .625; (6 x 2 + 2 x 6) / 8 = 3; a mean of the means would be .75 and 4
    assert of_step(passes) == {"mean_token_accuracy": 0.625, "entropy": 3.0, "num_tokens": 26.0}


def test_pairs_count_by_examples_and_by_the_tokens_of_their_side() -> None:
    one = {"rewards/accuracies": 1.0, "logps/chosen": -10.0, "logits/chosen": 1.0, "logits/rejected": 1.0,
           "mean_token_accuracy": 1.0, "entropy": 0.0}  # fmt: skip
    two = {"rewards/accuracies": 0.0, "logps/chosen": -50.0, "logits/chosen": 5.0, "logits/rejected": 5.0,
           "mean_token_accuracy": 0.2, "entropy": 8.0}  # fmt: skip
    passes = [
        Pass(one, [2, 2, 2, 1, 1, 1], [True] * 3 + [False] * 3),  # 6 tokens chosen, 3 rejected
        Pass(two, [2, 5], [True, False]),
    ]
    assert of_step(passes) == pytest.approx(
        {
            "rewards/accuracies": 3 / 4,
            "logps/chosen": -20.0,  # (3 x -10 + -50) / 4
            "logits/chosen": 2.0,  # (6 x 1 + 2 x 5) / 8
            "logits/rejected": 3.5,  # (3 x 1 + 5 x 5) / 8
            "mean_token_accuracy": 0.8,  # of the chosen: (6 x 1 + 2 x .2) / 8
            "entropy": 3.5,  # (9 x 0 + 7 x 8) / 16
        }
    )


def test_a_side_that_a_pass_lacks_has_no_part_and_the_margin_is_of_the_step() -> None:
    passes = [
        Pass({"rewards/chosen": 0.6, "rewards/rejected": 0.2, "rewards/margins": 0.4}, [3, 3], [True, False]),
        Pass({"rewards/rejected": -0.1}, [3, 3], [False, False]),
    ]
    found = of_step(passes)
    assert found == pytest.approx({"rewards/chosen": 0.6, "rewards/rejected": 0.0, "rewards/margins": 0.6})


def test_extremes_stay_extremes_and_no_token_is_no_division() -> None:
    names = ("clip_ratio/low_min", "clip_ratio/high_max", "entropy")
    passes = [Pass(dict.fromkeys(names, value), [0], [True]) for value in (0.25, 0.5)]
    assert of_step(passes) == {"clip_ratio/low_min": 0.25, "clip_ratio/high_max": 0.5, "entropy": 0.0}
