"""SFT: every rollout, weight 1, the negative log-likelihood."""

from __future__ import annotations

from math import log

import pytest
import torch

from tasks.methods.common import ROW_EXAMPLES
from tasks.methods.sft import Sft
from tests.lab.groups import graded, weights


def test_keeps_every_rollout_right_or_wrong_in_order() -> None:
    selected = Sft().select(graded(("p7", 1.0), ("p8", 0.0), ("p7", 0.0)))
    assert weights(selected) == {0: 1.0, 1: 1.0, 2: 1.0}
    assert selected.schema == ROW_EXAMPLES
    assert selected["prompt_ids"].to_list() == [[1, 7], [1, 8], [1, 7]]
    assert selected["completion_ids"].to_list() == [[100, 2], [101, 2], [102, 2]]
    assert selected["behaviour"].null_count() == 3


def test_loss_is_the_sum_of_token_losses() -> None:
    # Two rows: p = 1/2, 1/4 and p = 1/8 (its second position is no completion token).
    # l_0 = log 2 + log 4 = 3 log 2; l_1 = log 8 = 3 log 2; over 3 tokens: 6 log 2 / 3 = 2 log 2
    logprobs_BT = torch.tensor([[1 / 2, 1 / 4], [1 / 8, 1 / 3]], dtype=torch.float64).log()
    mask_BT = torch.tensor([[1, 1], [1, 0]])
    terms_BT = Sft().token_loss(logprobs_BT, mask_BT, torch.ones(2, dtype=torch.float64), None)
    assert terms_BT.tolist() == [pytest.approx([log(2), log(4)]), pytest.approx([log(8), 0.0])]
    assert float(terms_BT.sum() / mask_BT.sum()) == pytest.approx(2 * log(2))
