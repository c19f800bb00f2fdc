"""The common stream: hand-worked, every rollout once an epoch, and what selections leave of it."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.training.order import stream_order

N = 30
EVERY = np.arange(N)


def test_by_hand() -> None:
    # Epochs 0 and 1 of data seed 7 walk the four rollouts in these orders:
    assert np.random.default_rng([7, 0]).permutation(4).tolist() == [0, 2, 1, 3]
    assert np.random.default_rng([7, 1]).permutation(4).tolist() == [2, 0, 3, 1]
    # Examples 0, 1, 2, 3 belong to rollouts 2, 0, 2, 3; rollout 1 has none, rollout 2 has examples 0 and 2.
    # So 0 -> 1, 1 -> nothing, 2 -> 0 2, 3 -> 3.
    expected = [1, 0, 2, 3, 0, 2, 1, 3]
    rows = np.array([2, 0, 2, 3])
    assert stream_order(rows, 4, 8, data_seed=7).tolist() == expected
    assert stream_order(rows, 4, 3, data_seed=7).tolist() == expected[:3]


def test_every_rollout_once_an_epoch_and_another_order_each_epoch() -> None:
    order = stream_order(EVERY, N, 3 * N, data_seed=0).reshape(3, N)
    assert all(sorted(epoch) == EVERY.tolist() for epoch in order.tolist())
    assert len({tuple(epoch) for epoch in order.tolist()}) == 3


def test_a_selection_sees_the_stream_with_the_rest_left_out() -> None:
    kept = np.array([row for row in range(N) if row % 3])
    stream = stream_order(EVERY, N, 2 * N, data_seed=5)
    thinned = [int(row) for row in stream if row % 3]
    assert kept[stream_order(kept, N, 2 * kept.size, data_seed=5)].tolist() == thinned


def test_needed_fills_up_with_further_epochs_and_is_a_prefix_of_more() -> None:
    kept = np.array([4, 9])
    order = stream_order(kept, N, 7, data_seed=1)
    assert order.size == 7
    assert np.bincount(order).tolist() in ([3, 4], [4, 3])
    assert order.tolist() == stream_order(kept, N, 20, data_seed=1)[:7].tolist()


def test_data_seed_decides_the_order() -> None:
    orders = {tuple(stream_order(EVERY, N, N, data_seed=seed).tolist()) for seed in range(5)}
    assert len(orders) == 5
    assert stream_order(EVERY, N, N, data_seed=2).tolist() == stream_order(EVERY, N, N, data_seed=2).tolist()


def test_pairs_come_where_their_chosen_rollout_comes_in_their_given_order() -> None:
    chosen = np.array([0, 0, 0, 3, 8, 8])
    stream = stream_order(EVERY, N, N, data_seed=4).tolist()
    expected = [pair for row in stream for pair in np.flatnonzero(chosen == row).tolist()]
    assert sorted(expected) == list(range(6))
    assert stream_order(chosen, N, 6, data_seed=4).tolist() == expected


def test_nothing_to_order_is_refused() -> None:
    with pytest.raises(ValueError, match="no example"):
        stream_order(np.array([], dtype=np.int64), N, 1, data_seed=0)
