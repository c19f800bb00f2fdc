"""The control that makes methods comparable: one initialisation, one stream of data."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from tasks.core.results import RunInfo


def shared_initialisation(digests: Mapping[RunInfo, str]) -> dict[str, object]:
    """Whether all runs of one seed began from bit-identical lora_A. One check: {name, ok, detail}."""
    by_seed: dict[int | None, set[str]] = {}
    for info, digest in digests.items():
        by_seed.setdefault(info.seed, set()).add(digest)
    wrong = [seed for seed, found in by_seed.items() if len(found) > 1]
    detail = f"{len(digests)} adapters, {len(by_seed)} seed(s): lora_A " + (
        f"differs within seed(s) {wrong}" if wrong else "bit-identical before step 1"
    )
    return {"name": "shared LoRA initialisation", "ok": not wrong, "detail": detail}


def shared_stream(streams: Mapping[RunInfo, list[int]], selected: Mapping[RunInfo, set[int]]) -> dict[str, object]:
    """Whether every row method saw the common stream, less the rows that its selection leaves out.

    Args:
        streams: rollout indices in the order in which each run's trainer collated them.
        selected: the rollout indices that each run's selection kept.

    Runs of one ``data_seed`` are compared pairwise on the rows that both keep, over the length that both reached.
    """
    runs = list(streams)
    wrong = []
    for i, a in enumerate(runs):
        for b in runs[i + 1 :]:
            if a.data_seed != b.data_seed:
                continue
            both = selected[a] & selected[b]
            left = [row for row in streams[a] if row in both]
            right = [row for row in streams[b] if row in both]
            length = min(len(left), len(right))
            if left[:length] != right[:length]:
                wrong.append(f"{a.run}~{b.run}")
    detail = f"{len(runs)} row methods: " + (f"order differs in {wrong}" if wrong else "one order of rollouts")
    return {"name": "shared token stream", "ok": not wrong, "detail": detail}


def read_stream(frame: pl.DataFrame) -> list[int]:
    """The rollout indices of ``stream.parquet``."""
    return [int(row) for row in frame["row"]]
