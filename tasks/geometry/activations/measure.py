"""The second moments of a base on a study's held-out problems, or on anybody's texts. Runs in a worker process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tasks.core.results import LocalBase, Progress, no_progress
from tasks.geometry.activations.collect import collect
from tasks.geometry.paths.chosen import choose
from tasks.geometry.paths.texts import Batch, as_texts, batches, texts_of

AT_ONCE = 16
"""Texts of a forward pass."""


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
    paths; of ``texts``, a file of rows (`texts_of`). Returns counts: texts, tokens, ``cut``
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
