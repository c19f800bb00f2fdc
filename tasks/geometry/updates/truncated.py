"""The leading directions of an update, and what they leave of it, as adapters: what does each direction carry?"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from tasks.core.errors import InputError
from tasks.core.frames import REST
from tasks.geometry.adapters.adapter import WEIGHTS, AdapterSource
from tasks.geometry.adapters.peft_config import CONFIG
from tasks.geometry.delta import Factors
from tasks.geometry.factored import factor


def truncated(update: Factors, k: int, part: str) -> Factors:
    """The best approximation of ``scale * B A`` of rank k (Eckart and Young 1936), or for REST what it leaves.

    Factors of the same shapes and scale, whose last columns of B and rows of A are 0; singular values are shared evenly
    between the two. A k above the rank is the whole update, and leaves 0.

    >>> import numpy as np
    >>> update = Factors(np.diag([3.0, 1.0]), np.eye(2), 2.0)
    >>> one, rest = truncated(update, 1, "leading"), truncated(update, 1, "rest")
    >>> (one.scale * one.B @ one.A).round(6).tolist(), (rest.scale * rest.B @ rest.A).round(6).tolist()
    ([[6.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 2.0]])
    """
    whole = factor(update)
    kept = slice(k, None) if part == REST else slice(k)
    root = np.sqrt(whole.s[kept] / update.scale)
    B, A = np.zeros_like(update.B), np.zeros_like(update.A)
    B[:, : root.size], A[: root.size] = whole.U[:, kept] * root, (whole.V[:, kept] * root).T
    return Factors(B, A, update.scale)


def write_truncated(adapter: Path, k: int, part: str, out: Path) -> None:
    """PEFT folder ``out`` of the `truncated` update of the folder ``adapter``, module by module in float64, in float32.

    Its configuration is the adapter's, rank and scale included. Raises `InputError` as `AdapterSource` does, and for an
    adapter that changes more than it has factors for.
    """
    from safetensors.numpy import save_file

    source = AdapterSource(adapter)
    if k < 1:
        raise InputError(f"{adapter}: truncated to {k} directions; need at least 1")
    if source.left_out:
        raise InputError(f"{adapter}: cannot be truncated ({source.note}); leave it out")
    tensors = {}
    for name in source.shapes:
        found = truncated(source.read(name), k, part)
        for key, matrix in zip(source.keys(name), (found.B, found.A), strict=True):
            tensors[key] = np.ascontiguousarray(matrix, dtype=np.float32)
    out.mkdir(parents=True)
    save_file(tensors, out / WEIGHTS, metadata={"format": "pt"})
    shutil.copyfile(adapter / CONFIG, out / CONFIG)
