"""Arrays that their name decides, such as nulls of common shapes: made once, then read from the state folder."""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from tasks.core import home
from tasks.geometry.delta import Array

VERSION = 1
"""Of what is kept; raised where a null is drawn otherwise."""

LARGEST_FILE = 64 * 2**20
"""Bytes above which an array is made anew each time."""


def kept(name: str, shape: tuple[int, ...], make: Callable[[], Array]) -> Array:
    """``make()`` of this ``shape``, float64, from ``nulls/`` of the state folder where it has been made before.

    ``name`` holds all that decides the array (dimensions, draws, seed); NumPy's version, whose generators and
    decompositions may differ, is added. A file is written in one step and carries a checksum: one that is torn is made
    again. What cannot be written is not kept.
    """
    size = 8 * int(np.prod(shape))
    path = _place(name) if size <= LARGEST_FILE else None
    if path is None:
        return make()
    with suppress(OSError):
        content = memoryview(path.read_bytes())
        if len(content) == size + 4 and zlib.crc32(content[:size]) == int.from_bytes(content[size:], "little"):
            return np.frombuffer(content, "<f8", size // 8).reshape(shape)
    made = np.ascontiguousarray(make(), dtype="<f8")
    with suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        number, temporary = tempfile.mkstemp(dir=path.parent)
        try:
            with open(number, "wb") as file:
                file.write(made.tobytes() + zlib.crc32(made.tobytes()).to_bytes(4, "little"))
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    return made


def _place(name: str) -> Path | None:
    """Where the array is kept; None where there is no state folder to be had."""
    with suppress(OSError, RuntimeError):
        return home.home() / "nulls" / f"{name}-numpy-{np.__version__}-{VERSION}.f64"
    return None
