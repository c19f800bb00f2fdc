"""The cores that this process may use, and threads on them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


def cores() -> int:
    """How many they are; not every system says which a process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def threads(most: int, workers: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """A pool of ``workers`` threads (default: one a core), at most ``most`` of them, for work on one module each.

    Within it each has one BLAS thread: modules are independent, and small products gain nothing from two.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1), ThreadPoolExecutor(max(1, min(workers or cores(), most))) as pool:
        yield pool
