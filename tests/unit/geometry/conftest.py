from __future__ import annotations

from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True, scope="session")
def one_blas_thread() -> Iterator[None]:
    """Small products gain nothing from two threads, and lose much on busy cores."""
    with threadpool_limits(1):
        yield
