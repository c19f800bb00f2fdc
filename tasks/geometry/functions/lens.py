"""Logit lens: what each layer's hidden state would say if it were the last (nostalgebraist 2020).

Every layer's state goes through the final norm and the head. Shapes: ``_L`` layers, 0 (the embedding's output) to the
last; ``_N`` predicted tokens; ``_V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasks.core.frames import LENS, checked
from tasks.geometry.functions.readout import Readout

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Lens:
    """Sums over tokens of one model's lens, in float64."""

    agreement_L: NDArray[np.float64]
    cross_entropy_L: NDArray[np.float64]
    depth: float = 0.0
    tokens: int = 0

    @classmethod
    def empty(cls, layers: int) -> Lens:
        """For a model of ``layers`` layers (so L = layers + 1)."""
        return cls(np.zeros(layers + 1), np.zeros(layers + 1))

    def add(self, readout: Readout, states_L: Sequence[Tensor], targets_N: Tensor, block_bytes: int) -> None:
        """Add N tokens: ``states_L`` are L tensors (N, p), the last one after the final norm; ``targets_N`` the tokens
        that the reference has there. No block of logits is above ``block_bytes``, but for one token's.
        """
        import torch

        chunk = max(1, block_bytes // (8 * readout.model.config.get_text_config().vocab_size))  # logits and log-softmax
        for start in range(0, len(targets_N), chunk):
            part = slice(start, start + chunk)
            top_LN = torch.stack([logits.argmax(-1) for logits in self._read(readout, states_L, part, targets_N)])
            same_LN = top_LN == top_LN[-1]
            self.agreement_L += same_LN.sum(-1).cpu().numpy()
            # The layers at the end that all agree are a run of ones from the last one backwards.
            run_N = same_LN.flip(0).long().cumprod(0).sum(0)
            self.depth += float((len(states_L) - run_N).sum())
        self.tokens += len(targets_N)

    def _read(self, readout: Readout, states_L: Sequence[Tensor], part: slice, targets_N: Tensor) -> Iterator[Tensor]:
        """The (n, V) logits of each layer in turn; adds their cross-entropy on the way."""
        from torch.nn.functional import cross_entropy

        for layer, states in enumerate(states_L):
            last = layer == len(states_L) - 1
            logits = readout.head(states[part] if last else readout.norm(states[part]))
            nll_N = cross_entropy(logits, targets_N[part], reduction="none")
            self.cross_entropy_L[layer] += float(nll_N.double().sum())
            yield logits


def lens_frame(lenses: Mapping[str, Lens]) -> pl.DataFrame:
    """LENS rows: agreement (share) and cross-entropy (nats a token) of each layer, and the depth (layers).

    ``depth``: mean over tokens of the first layer from which on the most likely token is that of the last layer;
    between 0 (the embedding decides) and the number of layers (only the last one does). ``lenses``: run -> its sums.
    """
    rows: list[tuple[str, int | None, str, int, float]] = []
    for run, lens in lenses.items():
        for name, sums in (("agreement", lens.agreement_L), ("cross_entropy", lens.cross_entropy_L)):
            rows += [(run, layer, name, lens.tokens, float(value) / lens.tokens) for layer, value in enumerate(sums)]
        rows.append((run, None, "depth", lens.tokens, lens.depth / lens.tokens))
    return checked(pl.DataFrame(rows, schema=LENS, orient="row"), LENS, "lens")
