"""Kullback-Leibler divergence between models' next-token distributions on given text: the distance of functions.

KL(p_a || p_b) is over the whole vocabulary at every token, exact and not sampled. KL(p_base || p_method) is the
"forward KL to the base" that RL's razor (Shenfeld et al. 2025, arXiv 2509.04259) relates to forgetting, there on the
new task's inputs; here at the tokens of reference solutions. Both directions of every pair are had.

Shapes: ``_N`` tokens, ``_M`` models, ``_V`` vocabulary, ``_P`` problems.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasks.core.frames import DIVERGENCE, checked
from tasks.geometry.chance.bootstrap import cluster_counts, interval
from tasks.geometry.functions.readout import Readout
from tasks.geometry.paths.switched import Switched

if TYPE_CHECKING:
    from torch import Tensor

BLOCK_BYTES = {"cpu": 2**28, "cuda": 2**30}
"""Largest block of logits, with all that is made of it."""

BYTES_A_LOGIT = 32
"""Most that `pair_divergences` and its caller hold for each entry of the (N, M, V) logits: two of them in float32 on
the way in, then float64 logits, log-probabilities and probabilities."""

REPLICATES = 1000
SEED = 0
"""Of the bootstrap: equal models give equal tables."""


def read_logits(
    switched: Switched, readout: Readout, runs: Sequence[str], states_NMp: Tensor
) -> Iterator[tuple[slice, Tensor]]:
    """Float32 logits (n, M, V) of N tokens' last hidden states in M ``runs``, so many tokens at a time that with what
    is made of them they stay within `BLOCK_BYTES` (but one token's). Each with the tokens that it is of."""
    import torch

    vocabulary = switched.model.config.get_text_config().vocab_size
    chunk = max(1, BLOCK_BYTES[states_NMp.device.type] // (BYTES_A_LOGIT * len(runs) * vocabulary))
    for start in range(0, len(states_NMp), chunk):
        part = slice(start, start + chunk)
        if not readout.adapted():
            yield part, readout.head(states_NMp[part])
            continue
        logits = []
        for number, run in enumerate(runs):
            switched.activate(run)
            logits.append(readout.head(states_NMp[part, number]))
        yield part, torch.stack(logits, dim=1)


def pair_divergences(logits_NMV: Tensor) -> Tensor:
    """(N, M, M) float64 KL(p_a || p_b) in nats, from float32 logits.

    The log-softmax is in float64: in float32 rounding is up to 4e-7 nats a token (V = 150), more than the divergence of
    nearly equal models. And so all pairs can come from one product of probabilities and log-probabilities, which takes
    less time than float32 pair by pair.
    """
    import torch

    logp_NMV = torch.log_softmax(logits_NMV.double(), dim=-1)
    cross_NMM = torch.bmm(logp_NMV.exp(), logp_NMV.transpose(1, 2))  # sum_v p_a log p_b
    return (torch.diagonal(cross_NMM, dim1=1, dim2=2).unsqueeze(-1) - cross_NMM).clamp_min(0.0)  # below 0 by rounding


def divergence_frame(runs: Sequence[str], sums_PMM: NDArray[np.float64], tokens_P: NDArray[np.int64]) -> pl.DataFrame:
    """DIVERGENCE rows of all ordered pairs of M >= 2 ``runs``, nats a token, with a 95 % bootstrap over problems.

    ``sums_PMM``: KL(p_a || p_b) summed over each problem's tokens; ``tokens_P``: how many those are, at least one in
    all. A value is the ratio of the sums over problems; whole problems are drawn with replacement, and a draw's value
    is the same ratio. The interval is null for a single problem.
    """
    problems = len(tokens_P)
    pairs = list(permutations(range(len(runs)), 2))
    first, second = np.array(pairs).T
    sums_PK = sums_PMM[:, first, second]
    counts_RP = cluster_counts(range(problems), REPLICATES, np.random.default_rng(SEED))
    low, high = interval(((counts_RP @ sums_PK) / (counts_RP @ tokens_P)[:, None]).T, clusters=problems)
    tokens = int(tokens_P.sum())
    frame = pl.DataFrame(
        {
            "run_a": [runs[a] for a in first],
            "run_b": [runs[b] for b in second],
            "n": [problems] * len(pairs),
            "tokens": [tokens] * len(pairs),
            "value": sums_PK.sum(axis=0) / tokens,
            "low": low,
            "high": high,
        }
    )
    return checked(frame.with_columns(pl.col("low", "high").fill_nan(None)), DIVERGENCE, "divergence")
