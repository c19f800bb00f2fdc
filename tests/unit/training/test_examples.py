"""Examples as TRL reads them: prompts masked, stream order, behaviour log-probabilities where they are used."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from tasks.methods import Methods
from tasks.methods.common import ROW_EXAMPLES
from tasks.methods.dpo import Dpo
from tasks.methods.offline_grpo import OfflineGrpo
from tasks.training.examples import build_dataset
from tasks.training.order import stream_order
from tasks.training.trainers import PairCollator, RowCollator
from tests.lab.world import PAD, make_graded


def test_labels_are_the_completion_and_mask_the_prompt() -> None:
    selected = pl.DataFrame(
        {"row": [0], "prompt_ids": [[1, 8, 9]], "completion_ids": [[7, 6, 2]], "weight": [0.5], "behaviour": [None]},
        schema=ROW_EXAMPLES,
    )
    dataset = build_dataset(selected, "rows", rollouts=1, needed=2, data_seed=0)
    assert dataset.num_rows == 2
    assert dataset[1] == {
        "row": 0,
        "input_ids": [1, 8, 9, 7, 6, 2],
        "labels": [-100, -100, -100, 7, 6, 2],
        "weight": 0.5,
        "behaviour": None,
    }


@pytest.mark.parametrize("name", ["sft", "rft", "rift"])
def test_rows_come_in_stream_order_with_their_own_content(name: str) -> None:
    graded = make_graded()
    selected = getattr(Methods(), name).select(graded)
    rows = selected["row"].to_numpy()
    dataset = build_dataset(selected, "rows", graded.height, needed=60, data_seed=9)
    assert dataset["row"][:] == rows[stream_order(rows, graded.height, 60, 9)].tolist()
    weight = dict(selected.select("row", "weight").iter_rows())
    for example in dataset:
        source = graded.row(example["row"], named=True)
        assert example["input_ids"] == source["prompt_ids"] + source["completion_ids"]
        assert example["labels"] == [-100] * len(source["prompt_ids"]) + source["completion_ids"]
        assert example["weight"] == weight[example["row"]]


def test_pairs_come_in_stream_order_with_their_own_content() -> None:
    graded = make_graded()
    selected = Dpo().select(graded)
    dataset = build_dataset(selected, "pairs", graded.height, needed=30, data_seed=9)
    order = stream_order(selected["row"].to_numpy(), graded.height, 30, 9)
    assert [dict(example) for example in dataset] == [
        {k: v for k, v in selected.row(int(i), named=True).items() if k != "rejected_row"} for i in order
    ]


def test_behaviour_stands_where_its_token_is_predicted() -> None:
    # Prompt 1 8 9, completion 7 6 2: token 7 is at position 3 and predicted at 2, so its log-probability -.1 stands
    # at 2. Second row: prompt 1, completion 5 2, shorter by three, so padded on the right.
    collator = RowCollator(PAD, weighted=True)
    batch = collator(
        [
            {"row": 4, "input_ids": [1, 8, 9, 7, 6, 2], "labels": [-100] * 3 + [7, 6, 2], "weight": 0.5,
             "behaviour": [-0.1, -0.2, -0.3]},
            {"row": 2, "input_ids": [1, 5, 2], "labels": [-100, 5, 2], "weight": -0.25, "behaviour": [-0.4, -0.5]},
        ]
    )  # fmt: skip
    assert batch["input_ids"].tolist() == [[1, 8, 9, 7, 6, 2], [1, 5, 2, PAD, PAD, PAD]]
    assert batch["attention_mask"].tolist() == [[1] * 6, [1, 1, 1, 0, 0, 0]]
    assert batch["labels"].tolist() == [[-100, -100, -100, 7, 6, 2], [-100, 5, 2, -100, -100, -100]]
    expected_BT = torch.tensor([[0.0, 0.0, -0.1, -0.2, -0.3], [-0.4, -0.5, 0.0, 0.0, 0.0]])
    assert torch.equal(batch["behaviour"], expected_BT)
    assert torch.equal(batch["behaviour"] != 0, batch["labels"][:, 1:] != -100)
    assert batch["weight"].tolist() == [0.5, -0.25]
    assert collator.seen == [4, 2]
    assert collator.tokens == 9


def test_without_weights_the_batch_is_trls_own() -> None:
    dataset = build_dataset(OfflineGrpo().select(make_graded()), "rows", 48, needed=4, data_seed=0)
    batch = RowCollator(PAD, weighted=False)([dataset[i] for i in range(4)])
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    assert "behaviour" not in RowCollator(PAD, weighted=True)([dataset[0]])  # no clip: nothing to carry


def test_pair_batches_hold_the_chosen_then_the_rejected() -> None:
    collator = PairCollator(PAD)
    batch = collator([{"row": 5, "prompt_ids": [1, 8], "chosen_ids": [7, 6, 2], "rejected_ids": [3, 2]}])
    assert batch["input_ids"].tolist() == [[1, 8, 7, 6, 2], [1, 8, 3, 2, PAD]]
    assert batch["completion_mask"].tolist() == [[0, 0, 1, 1, 1], [0, 0, 1, 1, 0]]
    assert collator.seen == [5]
    assert collator.tokens == 9


def test_the_same_rollouts_give_the_same_data_set_twice() -> None:
    selected = OfflineGrpo(clip=0.2).select(make_graded())
    once, twice = (build_dataset(selected, "rows", 48, needed=96, data_seed=1) for _ in range(2))
    assert once.to_dict() == twice.to_dict()
    assert np.shape(once["behaviour"][0]) == (sum(label != -100 for label in once["labels"][0]),)
