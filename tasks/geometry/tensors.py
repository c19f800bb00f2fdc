"""Read single tensors of a safetensors file into float64 arrays without torch, bfloat16 included."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from tasks.contracts import InputError

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


class Entry(NamedTuple):
    """Where one tensor lies: ``dtype`` in safetensors' names, ``offset`` in bytes from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int


class TensorFile:
    """A safetensors file, opened without reading its weights: memory does not grow with its size.

    Raises `InputError` naming the file when it is damaged or cut short (safetensors itself checks the header and that
    the file is as long as the header says).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with safe_open(str(path), framework="np"):
                pass
            self.entries: Mapping[str, Entry] = _header(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(f"{path}: not a readable safetensors file ({error}); copy it again") from error

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Tensor name -> shape, in the file's order."""
        return {name: entry.shape for name, entry in self.entries.items()}

    def read(self, name: str) -> NDArray[np.float64]:
        """One tensor as float64; only its bytes are read.

        Raises `InputError` where it is not floating point, or where the file has become shorter since it was opened.
        """
        entry = self.entries[name]
        self.check_floating(name)
        kind = np.dtype(_DTYPES[entry.dtype])
        raw = np.fromfile(self.path, kind, entry.size // kind.itemsize, offset=entry.offset)
        if raw.nbytes != entry.size:
            raise InputError(f"{self.path}: tensor {name} is cut short; copy the file again")
        if entry.dtype == "BF16":
            # NumPy has no bfloat16: it is the upper half of a float32, so shifting it back up is exact.
            raw = (raw.astype(np.uint32) << 16).view(np.float32)
        return raw.astype(np.float64, copy=False).reshape(entry.shape)

    def check_floating(self, name: str) -> None:
        """Raises `InputError` for a tensor that is not floating point."""
        kind = self.entries[name].dtype
        if kind not in _DTYPES:
            raise InputError(
                f"{self.path}: tensor {name} is {kind}; weights must be float64, float32, float16 or bfloat16"
            )

    def same(self, name: str, other: TensorFile, other_name: str) -> bool:
        """Whether two tensors are equal bit for bit; False where their types or shapes differ."""
        mine, theirs = self.entries[name], other.entries[other_name]
        if (mine.dtype, mine.shape) != (theirs.dtype, theirs.shape):
            return False
        raw = (np.fromfile(f.path, np.uint8, e.size, offset=e.offset) for f, e in ((self, mine), (other, theirs)))
        return bool(np.array_equal(next(raw), next(raw)))


def _header(path: Path) -> dict[str, Entry]:
    """The format: eight bytes with the header's length, the header in JSON, the tensors one after the other."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    return {
        name: Entry(entry["dtype"], tuple(entry["shape"]), 8 + length + begin, end - begin)
        for name, entry in header.items()
        if name != "__metadata__"
        for begin, end in [entry["data_offsets"]]
    }
