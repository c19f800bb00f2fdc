"""Examples as packed tensors for pretraining the embedded small world.

Several short examples share a row; a block-diagonal causal mask and positions that restart keep them apart, so packing
changes no number, it only removes padding (a third of the time at this size).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, device

BLOCKED = -1e4  # finite: softmax of a padding position, which sees nothing else, must stay a number


@dataclass(frozen=True)
class Encoded:
    """One example in token ids: ``prompt`` after the template, ``completion`` with its end-of-sequence token."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True)
class Packed:
    """Rows of packed examples. ``R`` rows of ``T`` tokens.

    ``targets`` (R, T) holds the next token where it belongs to a completion and -1 elsewhere; ``owner`` (R, T) the
    index of the example that a position belongs to (-1 for padding); ``mask`` (R, 1, T, T) is additive.
    """

    ids: Tensor
    positions: Tensor
    targets: Tensor
    owner: Tensor
    mask: Tensor


def pack(examples: Sequence[Encoded], *, pad_id: int, row_tokens: int, device: device | str = "cpu") -> Packed:
    """First-fit decreasing into rows of ``row_tokens`` (or the longest example, where that is longer)."""
    import torch

    rows = assign_rows([len(example) for example in examples], row_tokens)
    width = max(sum(len(examples[i]) for i in row) for row in rows)
    ids = torch.full((len(rows), width), pad_id)
    positions = torch.zeros((len(rows), width), dtype=torch.long)
    targets = torch.full((len(rows), width), -1)
    owner = torch.full((len(rows), width), -1)
    for r, row in enumerate(rows):
        start = 0
        for i in row:
            example = examples[i]
            end, first = start + len(example), start + len(example.prompt) - 1
            ids[r, start:end] = torch.tensor(example.prompt + example.completion)
            positions[r, start:end] = torch.arange(len(example))
            targets[r, first : end - 1] = torch.tensor(example.completion)
            owner[r, start:end] = i
            start = end
    allowed = (owner[:, :, None] == owner[:, None, :]).tril()
    mask = torch.zeros(allowed.shape).masked_fill_(~allowed, BLOCKED)[:, None]
    return Packed(*(tensor.to(device) for tensor in (ids, positions, targets, owner, mask)))


def assign_rows(lengths: Sequence[int], row_tokens: int) -> list[list[int]]:
    """Indices of ``lengths`` grouped into rows whose sums stay within ``row_tokens``; longest first, first fit."""
    rows: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        for r, free in enumerate(room):
            if lengths[i] <= free:
                rows[r].append(i)
                room[r] -= lengths[i]
                break
        else:
            rows.append([i])
            room.append(row_tokens - lengths[i])
    return rows
