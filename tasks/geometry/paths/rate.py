"""Progress that says how fast it goes."""

from __future__ import annotations

import time

from tasks.core.results import Progress


def with_rate(progress: Progress, unit: str) -> Progress:
    """``progress`` whose notes read ``'modules, 41/s'``; the clock starts now."""
    began = time.monotonic()

    def told(done: int, total: int, note: str = "") -> None:
        elapsed = time.monotonic() - began
        rate = f"{unit}, {done / elapsed:.3g}/s" if done and elapsed > 0 else unit
        progress(done, total, f"{rate} {note}".strip() if total else note)

    return told
