"""The second moments of a base on a study's held-out problems, or on anybody's texts. Runs in a worker process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.errors import InputError
from tasks.core.results import LocalBase, Progress, no_progress
from tasks.core.rows import Row, name_of, read_rows
from tasks.geometry.activations.collect import collect
from tasks.geometry.paths.chosen import choose
from tasks.geometry.paths.texts import Batch, Text, as_texts, batches

if TYPE_CHECKING:
    from tasks.models.turn import Turn

AT_ONCE = 16
"""Texts of a forward pass."""
MOST_TEXTS, MOST_TOKENS = 256, 2048
"""Texts of a file that are read, and tokens of one of them."""
ASKED, ANSWERED = ("prompt", "question", "problem"), ("completion", "solution", "answer")


def measure_moments(
    *,
    base: LocalBase,
    targets: Sequence[str],
    out: Path,
    problems: Path | None = None,
    n: int = 0,
    max_new_tokens: int = 0,
    texts: Path | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Write ``moments.safetensors`` (`Moments.write`): S of the input of every module that ``targets`` name.

    Of ``problems`` the first ``n`` of `tasks.geometry.paths.chosen.choose`` with their reference solutions, as for the
    paths; of ``texts``, a file of rows (`texts_of`), at most `MOST_TEXTS`. Returns counts: texts, tokens, ``cut``
    (texts that were), inputs (sums that were kept), modules, ``low_rank`` (inputs too wide for the whole S); and
    ``outside``, the largest share of the trace of one of those of which only the diagonal is right, and ``of_file``.
    Raises `InputError` as `choose`, `texts_of` and `collect` do.
    """
    from tasks.models.load import load_read
    from tasks.models.turn import turn_at

    cut = 0
    if texts is not None:
        found, cut = texts_of(texts, base)
    else:
        assert problems is not None
        turn = turn_at(base)
        found = as_texts(turn, choose(turn, base.folder, problems, n, max_new_tokens, base.max_length, seed))
    model = load_read(base.folder)

    def read() -> Iterator[Batch]:
        done = 0
        for batch in batches(found, AT_ONCE, 0, model.device):  # what pads is masked: any id will do
            yield batch
            done += len(batch.rows)
            progress(done, len(found), "texts")

    moments = collect(model, read(), targets)
    moments.write(out)
    narrowed = [moment.outside for moment in moments.moments.values() if moment.rest is not None]
    return {
        "texts": len(found),
        "tokens": sum(len(text.ids) for text in found),
        "cut": cut,
        "of_file": texts is not None,
        "inputs": len(moments.moments),
        "modules": len(moments.shared),
        "low_rank": len(narrowed),
        "outside": max(narrowed, default=0.0),
    }


def texts_of(file: Path, base: LocalBase) -> tuple[list[Text], int]:
    """The first `MOST_TEXTS` texts of a file (`read_rows`), and how many were cut at `MOST_TOKENS` or the context.

    A row has a ``text``, taken as it is, or a ``prompt`` (``question``, ``problem``) with a ``completion``
    (``solution``, ``answer``), asked as the base is asked. The first token of a bare text is its prompt, the rest what
    is scored. Raises `InputError` for another row, and for an empty file.
    """
    from transformers import AutoTokenizer

    from tasks.models.load import context_length
    from tasks.models.turn import turn_at

    tokenizer = AutoTokenizer.from_pretrained(str(base.folder), trust_remote_code=False)
    limit = min(MOST_TOKENS, context_length(base.folder, base.max_length))
    turn: Turn | None = None
    found: list[Text] = []
    cut = 0
    for row in read_rows(file):
        if len(found) == MOST_TEXTS:
            break
        if (text := _string(row, ("text",))) is not None:
            ids = list(tokenizer(text)["input_ids"])
            begins = 1
        elif (asked := _string(row, ASKED)) is not None and (answered := _string(row, ANSWERED)) is not None:
            turn = turn or turn_at(base)
            prompt = turn.prompt(asked)
            ids, begins = [*prompt, *turn.answer(answered)], len(prompt)
        else:
            raise row.refuse("text", "a text, or a prompt with a completion", "write one text a row")
        if ids:
            cut += len(ids) > limit
            found.append(Text(ids[: min(begins, limit)], ids[begins:limit]))
    if not found:
        raise InputError(f'{name_of(file)}: expected at least one text, got none; write one a line: {{"text": ...}}')
    return found, cut


def _string(row: Row, names: Sequence[str]) -> str | None:
    """The first of these columns that holds a text."""
    return next((value for name in names if isinstance(value := row.values.get(name), str) and value.strip()), None)
