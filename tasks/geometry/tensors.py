"""Read a safetensors file into float64 arrays without torch, bfloat16 included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize

from tasks.contracts import InputError

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}


def read_tensors(file: Path) -> dict[str, NDArray[np.float64]]:
    """Every tensor of ``file`` as float64, name -> array.

    Raises `InputError` naming the file when it is damaged or cut short, and the tensor when it is not floating point.
    """
    try:
        entries = deserialize(file.read_bytes())
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: not a readable safetensors file ({error}); copy it again") from error
    return {
        name: _decode(entry["data"], entry["dtype"], f"{file}: tensor {name}").reshape(entry["shape"])
        for name, entry in entries
    }


def _decode(data: bytes, dtype: str, where: str) -> NDArray[np.float64]:
    if dtype == "BF16":
        # NumPy has no bfloat16: it is the upper half of a float32, so shifting it back up is exact.
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    if dtype not in _DTYPES:
        raise InputError(f"{where} is {dtype}; LoRA factors must be float64, float32, float16 or bfloat16")
    return np.frombuffer(data, _DTYPES[dtype]).astype(np.float64)
