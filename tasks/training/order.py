"""The one data order that all methods of a study share.

A seeded permutation of ALL rollouts, epoch after epoch, is the common stream. Each method walks it and takes the
examples that its selection left at each rollout, skipping the others, until its steps are filled. So methods that keep
every row see exactly the same batches, and a method that keeps some sees the same stream with the rest left out.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def stream_order(rows: npt.NDArray[np.int64], rollouts: int, needed: int, data_seed: int) -> npt.NDArray[np.int64]:
    """Indices of examples in the order of training.

    Args:
        rows: (E,) the rollout (0..rollouts-1) that each example belongs to; several examples may share one.
        rollouts: N, the number of rollouts in the common stream.
        needed: how many examples to return (steps x batch size).
        data_seed: seed of the permutations; epoch e uses the pair (data_seed, e).

    Returns:
        (needed,) indices into ``rows``.
    """
    if rows.size == 0:
        raise ValueError("no example to order")
    by_row = np.argsort(rows, kind="stable")
    starts = np.searchsorted(rows[by_row], np.arange(rollouts + 1))
    taken: list[npt.NDArray[np.int64]] = []
    count, epoch = 0, 0
    while count < needed:
        permutation = np.random.default_rng([data_seed, epoch]).permutation(rollouts)
        pieces = [by_row[starts[row] : starts[row + 1]] for row in permutation]
        taken.append(np.concatenate(pieces))
        count += rows.size
        epoch += 1
    return np.concatenate(taken)[:needed]
