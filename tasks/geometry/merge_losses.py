"""The loss between two adapters, and of their sum, on texts that a person gives: what a merge would cost on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tasks.core.errors import InputError
from tasks.core.frames import MERGE_LOSSES, checked
from tasks.core.results import LocalBase, Progress, no_progress
from tasks.geometry.connectivity import barrier_interval, where
from tasks.geometry.paths.line import Line, open_plain
from tasks.geometry.paths.meter import SCORED_AT_ONCE
from tasks.geometry.paths.texts import texts_of

ALPHAS = tuple(step / 10 for step in range(11))
"""Points of the path, the two adapters and their mean among them."""


def measure_merges(
    *,
    base: LocalBase,
    texts: Path,
    adapters: Sequence[tuple[str, Path]],
    out: Path,
    seed: int = 0,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Losses of the base, both ends, their mean and their sum, and the barrier: from the first adapter to each other.

    ``adapters``: (name, PEFT directory) each. Losses are nats a token over all texts; the barrier with its 95 %
    interval over texts is that of `tasks.geometry.connectivity.barrier_interval`. ``texts``: as
    `tasks.geometry.paths.texts.texts_of` reads them; of a row with a prompt the completion is scored. Writes
    ``merge_losses.parquet`` (MERGE_LOSSES); the summary has numbers of texts, and of those that were cut. Raises
    `InputError` where no text has two tokens, and for an adapter that is not plain LoRA or not of this base. Runs in a
    worker process.
    """
    from tasks.models.load import load_read

    read_of, cut = texts_of(texts, base)
    scored = [text for text in read_of if text.solution]
    if not scored:
        raise InputError(f"--texts {texts}: none of the {len(read_of)} texts has a token to score")
    prompts, targets = [text.prompt for text in scored], [text.solution for text in scored]
    model = load_read(base.folder)
    (run_a, first), *others = [(name, open_plain(folder)) for name, folder in adapters]
    line = Line(model, [first, *(source for _, source in others)])
    counts_P = np.array([len(target) for target in targets])

    def read(*coefficients: float) -> Any:
        from tasks.models.score import sequence_nll

        line.place(coefficients)
        size = SCORED_AT_ONCE.get(model.device.type, 64)
        return np.array(sequence_nll(model, prompts, targets, pad_id=0, batch_size=size))

    zero = [0.0] * (1 + len(others))
    bare, start = read(*zero), read(1.0, *zero[1:])
    rows = []
    for place, (run_b, _) in enumerate(others, start=1):
        values = []
        for number, alpha in enumerate(ALPHAS, start=1):
            values.append(start if alpha == 0 else read(*_at(len(zero), place, 1 - alpha, alpha)))
            progress((place - 1) * len(ALPHAS) + number, len(others) * len(ALPHAS), "points")
        values_AP, both = np.stack(values), read(*_at(len(zero), place, 1.0, 1.0))
        found = barrier_interval(ALPHAS, values_AP, counts_P, np.random.default_rng(seed))
        losses = values_AP.sum(axis=1) / counts_P.sum()
        row = {
            "run_a": run_a, "run_b": run_b, "n": len(targets), "tokens": int(counts_P.sum()),
            "loss_base": bare.sum() / counts_P.sum(), "loss_a": losses[0], "loss_b": losses[-1],
            "loss_mean": losses[len(ALPHAS) // 2], "loss_sum": both.sum() / counts_P.sum(),
            "barrier": found.barrier, "low": found.low, "high": found.high, "alpha": where(ALPHAS, losses),
        }  # fmt: skip
        rows.append(row)
    frame = pl.DataFrame(rows, schema=MERGE_LOSSES)
    frame = checked(frame.with_columns(pl.selectors.float().fill_nan(None)), MERGE_LOSSES, "merge_losses")
    frame.write_parquet(out / "merge_losses.parquet")
    return {"texts": len(targets), "cut": cut}


def _at(number: int, place: int, a: float, b: float) -> list[float]:
    """Coefficients of all adapters where the first and that at ``place`` act."""
    found = [0.0] * number
    found[0], found[place] = a, b
    return found
