"""Read single tensors of a safetensors file into float64 arrays without torch, bfloat16 included."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from tasks.core.errors import InputError
from tasks.core.small_files import not_weights

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


class Entry(NamedTuple):
    """Where one tensor lies: ``dtype`` in safetensors' names, ``offset`` in bytes from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int


class Raw(NamedTuple):
    """A tensor's bytes as a file holds them, ``dtype`` in safetensors' names."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @property
    def turned(self) -> Raw:
        """The transposed matrix; anything that is no matrix as it is."""
        if len(self.shape) != 2 or not self.data:
            return self
        entries = np.frombuffer(self.data, f"V{len(self.data) // (self.shape[0] * self.shape[1])}")
        return Raw(self.dtype, self.shape[::-1], entries.reshape(self.shape).T.tobytes())


def write_tensors(path: Path, tensors: Mapping[str, Raw]) -> None:
    """A safetensors file of ``tensors``, bit by bit, without torch: NumPy has no bfloat16."""
    header, place = {}, 0
    for name, one in tensors.items():
        header[name] = {"dtype": one.dtype, "shape": one.shape, "data_offsets": [place, place + len(one.data)]}
        place += len(one.data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for one in tensors.values():
            file.write(one.data)


class TensorFile:
    """A safetensors file, opened without reading its weights: memory does not grow with its size.

    Raises `InputError` naming the file when it is damaged or cut short (safetensors itself checks the header and that
    the file is as long as the header says), or something else that was saved under its name (`not_weights`).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if said := not_weights(path):
            raise InputError(said)
        try:
            with safe_open(str(path), framework="np"):
                pass
            self.entries, self.metadata = _header(path)
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

    def raw(self, name: str) -> Raw:
        """One tensor as it is stored, of any type. Raises `InputError` where the file has become shorter."""
        entry = self.entries[name]
        with self.path.open("rb") as file:
            file.seek(entry.offset)
            data = file.read(entry.size)
        if len(data) != entry.size:
            raise InputError(f"{self.path}: tensor {name} is cut short; copy the file again")
        return Raw(entry.dtype, entry.shape, data)

    def is_floating(self, name: str) -> bool:
        """Whether a tensor is of a type that `read` reads."""
        return self.entries[name].dtype in _DTYPES

    def check_floating(self, name: str) -> None:
        """Raises `InputError` for a tensor that is not floating point."""
        if not self.is_floating(name):
            kind = self.entries[name].dtype
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


def check_gathered(shapes: Mapping[str, tuple[int, ...]], where: Path) -> None:
    """Refuse tensors without entries: DeepSpeed ZeRO-3 saves a weight so whose parts were not gathered before."""
    empty = [name for name, shape in shapes.items() if 0 in shape]
    if empty:
        raise InputError(
            f"{where}: {len(empty)} of {len(shapes)} tensors are empty (such as {empty[0]}), as DeepSpeed ZeRO-3 "
            "saves weights that were not gathered: save with stage3_gather_16bit_weights_on_model_save, or run the "
            "checkpoint's zero_to_fp32.py"
        )


def _header(path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """Where each tensor lies, and what the writer said of the file: eight bytes with the header's length, the header in
    JSON, the tensors one after the other."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    metadata = header.pop("__metadata__", {})
    entries = {
        name: Entry(entry["dtype"], tuple(entry["shape"]), 8 + length + begin, end - begin)
        for name, entry in header.items()
        for begin, end in [entry["data_offsets"]]
    }
    return entries, metadata
