"""Problems as token ids, in padded batches, and where in them the prompts and solutions are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from tasks.core.errors import InputError
from tasks.core.results import LocalBase
from tasks.core.rows import Row, name_of, read_rows
from tasks.geometry.paths.chosen import Chosen

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.models.turn import Turn

MOST_TEXTS, MOST_TOKENS = 256, 2048
"""Texts of a file that are read, and tokens of one of them."""
ASKED, ANSWERED = ("prompt", "question", "problem"), ("completion", "solution", "answer")

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


def texts_of(file: Path, base: LocalBase) -> tuple[list[Text], int]:
    """The texts of a file (`text_rows`) in tokens, and how many were cut at `MOST_TOKENS` or the context.

    The first token of a bare text is its prompt, the rest what is scored; a prompt is asked as the base is asked.
    """
    from transformers import AutoTokenizer

    from tasks.models.load import context_length
    from tasks.models.turn import turn_at

    tokenizer = AutoTokenizer.from_pretrained(str(base.folder), trust_remote_code=False)
    limit = min(MOST_TOKENS, context_length(base.folder, base.max_length))
    turn: Turn | None = None
    found: list[Text] = []
    cut = 0
    for row in text_rows(file):
        if "text" in row:
            ids = list(tokenizer(row["text"])["input_ids"])
            begins = 1
        else:
            turn = turn or turn_at(base)
            prompt = turn.prompt(row["prompt"])
            ids, begins = [*prompt, *turn.answer(row["completion"])], len(prompt)
        if ids:
            cut += len(ids) > limit
            found.append(Text(ids[: min(begins, limit)], ids[begins:limit]))
    return found, cut


def text_rows(file: Path) -> list[dict[str, str]]:
    """The first `MOST_TEXTS` rows of a file (`read_rows`): each its ``text``, or its ``prompt`` and ``completion``.

    A ``question`` or ``problem`` is a prompt, a ``solution`` or ``answer`` a completion. Raises `InputError` for a row
    that is neither, and for an empty file.
    """
    found = []
    for row in islice(read_rows(file), MOST_TEXTS):
        text, asked, answered = (_string(row, names) for names in (("text",), ASKED, ANSWERED))
        if text is not None:
            found.append({"text": text})
        elif asked is not None and answered is not None:
            found.append({"prompt": asked, "completion": answered})
        else:
            raise row.refuse("text", "a text, or a prompt with a completion", "write one text a row")
    if not found:
        raise InputError(f'{name_of(file)}: expected at least one text, got none; write one a line: {{"text": ...}}')
    return found


def _string(row: Row, names: Sequence[str]) -> str | None:
    """The first of these columns that holds a text."""
    return next((value for name in names if isinstance(value := row.values.get(name), str) and value.strip()), None)
