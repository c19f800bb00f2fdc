"""The measures that need the base's weights, of several adapters at once, in a worker process: its SVD is shared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks.core.frames import SPECTRA
from tasks.core.results import Progress, RunInfo, no_progress
from tasks.geometry.adapters.adapter import AdapterSource
from tasks.geometry.adapters.checkpoint import Checkpoint
from tasks.geometry.delta import natural
from tasks.geometry.frames import Row, long_frame
from tasks.geometry.updates.measure import resolve_ks


def measure_base(
    *,
    base: Path,
    adapters: Sequence[Path],
    infos: Sequence[RunInfo],
    ks: Sequence[int],
    out: Path,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Write ``{i}.parquet`` (SPECTRA): every metric of `tasks.geometry.base.metrics` of ``adapters[i]``.

    One full SVD of each base weight, and one of each adapter's merged weight; on this process's GPU where it has one.
    ``ks``: subspace dimensions, to which each adapter's own rank is added. Raises `InputError` for an adapter that is
    not plain LoRA or not of this base.
    """
    from tasks.geometry.base.metrics import base_module, base_rows, overall_rows

    weights, sources = Checkpoint(base), [AdapterSource(folder) for folder in adapters]
    dimensions = [resolve_ks(ks, [source]) for source in sources]
    names = sorted({name for source in sources for name in source.shapes}, key=natural)
    rows: list[list[Row]] = [[] for _ in sources]
    for done, name in enumerate(names):
        progress(done, len(names), "modules")
        shape = next(source.shapes[name] for source in sources if name in source.shapes)
        decomposed = base_module(weights.read_weight(name, shape))
        for i, source in enumerate(sources):
            if name in source.shapes:
                rows[i] += base_rows(name, decomposed, source.read(name), dimensions[i])
    for i, (source, info) in enumerate(zip(sources, infos, strict=True)):
        entries = {name: out_ * in_ for name, (out_, in_) in source.shapes.items()}
        every = rows[i] + overall_rows(rows[i], entries)
        long_frame(every, asdict(info), SPECTRA, "spectra").write_parquet(out / f"{i}.parquet")
    progress(len(names), len(names), "modules")
    return {"modules": len(names)}
