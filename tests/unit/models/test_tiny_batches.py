"""Packing removes padding and changes nothing else."""

from __future__ import annotations

import pytest
import torch

from tasks.core.sections import TinySpec
from tasks.models.tiny.batches import Encoded, assign_rows, pack
from tasks.models.tiny.network import as_vector, build_network, exact_matches, point_gradients, target_logits
from tasks.models.tokenizer import build_tokenizer
from tasks.problems.synthetic import vocabulary

SMALL = TinySpec(hidden=32, layers=2, heads=4, kv_heads=2, intermediate=32)


def test_rows_are_filled_longest_first() -> None:
    # 7 opens a row (3 left), 5 another (5 left), 4 joins the 5, 3 the 7: sums 10 and 9
    assert assign_rows([5, 3, 7, 4], 10) == [[2, 1], [0, 3]]


def test_an_example_longer_than_the_row_gets_one() -> None:
    assert assign_rows([12, 2], 10) == [[0], [1]]


def test_layout_written_out() -> None:
    # prompt 5 6, completion 7 2: position 1 must predict 7, position 2 must predict 2
    packed = pack([Encoded((5, 6), (7, 2)), Encoded((8,), (2,))], pad_id=0, row_tokens=7)
    assert packed.ids.tolist() == [[5, 6, 7, 2, 8, 2]]
    assert packed.positions.tolist() == [[0, 1, 2, 3, 0, 1]]
    assert packed.targets.tolist() == [[-1, 7, 2, -1, 2, -1]]
    assert packed.owner.tolist() == [[0, 0, 0, 0, 1, 1]]
    visible = (packed.mask[0, 0] == 0).int().tolist()
    assert visible == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1, 1],
    ]


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    monkeypatch.setattr("tasks.models.tiny.network.native_bfloat16", lambda where: False)
    model: torch.nn.Module = build_network(SMALL, build_tokenizer(vocabulary(), max_length=64), 64)
    return model


EXAMPLES = [Encoded((1, 40, 41, 4), (30, 31, 2)), Encoded((1, 50, 4), (33, 2)), Encoded((1, 9, 4), (10, 11, 12, 2))]


def test_packed_logits_equal_those_of_each_example_alone(network: torch.nn.Module) -> None:
    with torch.no_grad():
        together, targets = target_logits(network, pack(EXAMPLES, pad_id=0, row_tokens=64))
        alone = [
            target_logits(network, pack([example], pad_id=0, row_tokens=64))
            for example in (EXAMPLES[i] for i in (0, 2, 1))
        ]
    assert targets.tolist() == [token for _, row in alone for token in row.tolist()]
    torch.testing.assert_close(together, torch.cat([logits for logits, _ in alone]), rtol=0, atol=1e-5)


def test_weights_are_one_vector_and_gradients_too(network: torch.nn.Module) -> None:
    ids = torch.tensor([[1, 40, 41]])
    vector = as_vector(network)
    assert len(vector) == sum(p.numel() for p in network.parameters())
    sums = torch.zeros(len(vector))
    point_gradients(network, sums)
    network(input_ids=ids).logits.square().mean().backward()
    expected = torch.cat([p.grad.reshape(-1) for p in network.parameters()])
    assert sums.abs().max() > 0
    torch.testing.assert_close(sums, expected, rtol=0, atol=0)
    before = network(input_ids=ids).logits.detach().clone()
    vector.mul_(0.5)
    assert not torch.equal(network(input_ids=ids).logits, before)


def test_exact_matches_counts_examples_that_greedy_decoding_reproduces(network: torch.nn.Module) -> None:
    prompts = [(1, 40, 41, 4), (1, 50, 4), (1, 9, 4)]
    examples = []
    with torch.no_grad():
        for prompt in prompts:
            ids = list(prompt)
            for _ in range(3):
                ids.append(int(network(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
            examples.append(Encoded(prompt, tuple(ids[len(prompt) :])))
    assert exact_matches(network, [pack(examples, pad_id=0, row_tokens=64)]) == 3
    spoilt = Encoded(examples[1].prompt, (*examples[1].completion[:2], (examples[1].completion[2] + 1) % 100))
    assert exact_matches(network, [pack([examples[0], spoilt, examples[2]], pad_id=0, row_tokens=64)]) == 2


def test_initial_weights_depend_on_the_seed_alone() -> None:
    tokenizer = build_tokenizer(vocabulary(), max_length=64)
    torch.manual_seed(1)
    first = as_vector(build_network(SMALL, tokenizer, 64))
    torch.manual_seed(2)
    assert torch.equal(first, as_vector(build_network(SMALL, tokenizer, 64)))
    other = SMALL.model_copy(update={"seed": 5})
    assert not torch.equal(first, as_vector(build_network(other, tokenizer, 64)))
