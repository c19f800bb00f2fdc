"""Forgetting and the divergence on own answers by their definitions: dense merges, one text at a time, in float64."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch


class Slow(NamedTuple):
    """Of each text, summed over its tokens, nats."""

    nll: np.ndarray
    kl: np.ndarray
    """KL(base || run)."""
    first: np.ndarray
    """Of that the first token."""


def slow_sums(base: Path, adapter: Path | None, texts: list[tuple[list[int], list[int]]]) -> Slow:
    """``texts``: prompt and answer, in tokens."""
    rows = []
    for prompt, answer in texts:
        p, q = (_log_probabilities(base, folder, prompt, answer) for folder in (None, adapter))
        kl = (p.exp() * (p - q)).sum(-1)
        nll = -sum(float(q[place, token]) for place, token in enumerate(answer))
        rows.append((nll, float(kl.sum()), float(kl[0])))
    return Slow(*np.array(rows).T)


def _log_probabilities(base: Path, adapter: Path | None, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """(N, V) of each token of the answer."""
    from tasks.models.load import load_model

    model = load_model(base, "float32", adapter).double()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0]
    return torch.log_softmax(logits[len(prompt) - 1 : -1], -1)
