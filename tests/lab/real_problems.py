"""Where the real data is; without it a test skips, saying so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def real_data(name: str = "") -> Path:
    """``$COLINEAR_DATA``, or a file in it."""
    if not os.environ.get("COLINEAR_DATA"):
        pytest.skip("COLINEAR_DATA is not set: no real data")
    path = Path(os.environ["COLINEAR_DATA"]) / name
    if not path.exists():
        pytest.skip(f"no {name} under COLINEAR_DATA")
    return path
