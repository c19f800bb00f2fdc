"""Problems as token ids, in padded batches, and where in them the prompts and solutions are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from tasks.geometry.paths.chosen import Chosen

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.models.turn import Turn

Pooling = Literal["last", "mean", "tokens"]
"""How a prompt's hidden states become rows: its last token's, their mean, or each token's."""


@dataclass(frozen=True)
class Text:
    """A prompt and its reference solution, as token ids."""

    prompt: list[int]
    solution: list[int]

    @property
    def ids(self) -> list[int]:
        """The whole sequence."""
        return [*self.prompt, *self.solution]


@dataclass(frozen=True, eq=False)
class Batch:
    """B texts, padded on the right to T tokens; N solution tokens in all, row by row."""

    rows: list[int]
    """(B,) numbers of the texts."""
    ids: Tensor
    mask: Tensor
    prompt: Tensor
    """(B, T) bool: tokens of the prompt."""
    last: Tensor
    """(B,) place of each prompt's last token."""
    predicts: Tensor
    """(B, T) bool: places whose next token is a solution's."""
    targets: Tensor
    """(N,) those tokens."""
    owner: NDArray[np.int64]
    """(N,) number of the text of each."""


def as_texts(turn: Turn, chosen: Chosen) -> list[Text]:
    """The problems with their solutions, ``\\boxed{gold}`` for one where none is known."""
    return [
        Text(problem.prompt, [*problem.boxed, turn.closing] if problem.solution is None else problem.solution)
        for problem in chosen.problems
    ]


def rows_of(texts: Sequence[Text], pooling: Pooling) -> int:
    """How many rows ``pooling`` makes of the texts' prompts."""
    return sum(len(text.prompt) for text in texts) if pooling == "tokens" else len(texts)


def batches(texts: Sequence[Text], size: int, pad_id: int, device: Any) -> Iterator[Batch]:
    """All texts in order of length, so that a batch pads little, ``size`` at a time."""
    order = sorted(range(len(texts)), key=lambda i: (len(texts[i].ids), i))
    for start in range(0, len(order), size):
        yield _batch(texts, order[start : start + size], pad_id, device)


def _batch(texts: Sequence[Text], rows: list[int], pad_id: int, device: Any) -> Batch:
    import torch

    width = max(len(texts[i].ids) for i in rows)
    ids = torch.full((len(rows), width), pad_id)
    mask, prompt, predicts = (torch.zeros((len(rows), width), dtype=torch.bool) for _ in range(3))
    for row, i in enumerate(rows):
        whole, asked = len(texts[i].ids), len(texts[i].prompt)
        ids[row, :whole] = torch.tensor(texts[i].ids)
        mask[row, :whole] = True
        prompt[row, :asked] = True
        predicts[row, asked - 1 : whole - 1] = True
    return Batch(
        rows=rows,
        ids=ids.to(device),
        mask=mask.long().to(device),
        prompt=prompt.to(device),
        last=torch.tensor([len(texts[i].prompt) - 1 for i in rows], device=device),
        predicts=predicts.to(device),
        targets=torch.tensor([token for i in rows for token in texts[i].solution], device=device),
        owner=np.repeat(np.array(rows, dtype=np.int64), [len(texts[i].solution) for i in rows]),
    )


def pooled(hidden_BTp: Tensor, batch: Batch, pooling: Pooling) -> NDArray[np.float32]:
    """(rows, p) of one layer's hidden states at the prompts; padding and the solution never enter."""
    import torch

    if pooling == "tokens":
        rows = hidden_BTp[batch.prompt]
    elif pooling == "last":
        rows = hidden_BTp[torch.arange(len(batch.rows), device=hidden_BTp.device), batch.last]
    else:
        # Not a product with the mask: NaN at a padded place, as some attentions leave there, would spread.
        inside = torch.where(batch.prompt.unsqueeze(-1), hidden_BTp, 0.0)
        rows = inside.sum(dim=1) / batch.prompt.sum(dim=1, keepdim=True)
    return np.asarray(rows.float().cpu().numpy())
