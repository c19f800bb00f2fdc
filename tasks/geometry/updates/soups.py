"""Sums and means of updates as one adapter each: does what two methods do to a model add?"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tasks.core.errors import InputError
from tasks.geometry.adapters.adapter import WEIGHTS, AdapterSource
from tasks.geometry.adapters.peft_config import CONFIG
from tasks.geometry.delta import Factors


def souped(updates: Sequence[Factors], weight: float) -> Factors:
    """``weight * sum_i scale_i B_i A_i``, exactly: the factors side by side (PEFT's ``cat``), of rank r_1 + r_2 + ...

    All scales and the weight are in A; the result's own scale is 1.

    >>> import numpy as np
    >>> one, two = (Factors(np.array([[b], [0.0]]), np.array([[1.0, 0.0]]), 2.0) for b in (1.0, 3.0))
    >>> mean = souped([one, two], 0.5)
    >>> (mean.scale * mean.B @ mean.A).tolist(), mean.A.shape
    ([[4.0, 0.0], [0.0, 0.0]], (2, 2))
    """
    B = np.hstack([update.B for update in updates])
    return Factors(B, np.vstack([weight * update.scale * update.A for update in updates]), 1.0)


def write_soup(adapters: Sequence[Path], weight: float, out: Path) -> None:
    """PEFT folder ``out`` of the `souped` updates of ``adapters``, module by module in float64, in float32.

    Its configuration is the first adapter's, with the ranks of the sum and the scale 1. Raises `InputError` as
    `AdapterSource` does, for adapters of other modules or shapes, and for one that changes more than it has factors
    for.
    """
    from safetensors.numpy import save_file

    first, *others = sources = [AdapterSource(folder) for folder in adapters]
    for source in sources:
        if source.left_out:
            raise InputError(f"{source.source}: cannot be summed ({source.note}); leave it out")
    for other in others:
        if other.shapes != first.shapes:
            raise InputError(
                f"{other.source}: has other modules than {first.source}, or other shapes; sum adapters of one base and "
                "of the same target modules"
            )
    tensors, ranks = {}, {}
    for name in first.shapes:
        found = souped([source.read(name) for source in sources], weight)
        ranks[name] = found.B.shape[1]
        for key, matrix in zip(first.keys(name), (found.B, found.A), strict=True):
            tensors[key] = np.ascontiguousarray(matrix, dtype=np.float32)
    usual = Counter(ranks.values()).most_common(1)[0][0]
    other_ranks = {name: rank for name, rank in ranks.items() if rank != usual}
    config = json.loads((adapters[0] / CONFIG).read_text(encoding="utf-8"))
    config |= {"r": usual, "lora_alpha": usual, "rank_pattern": other_ranks, "alpha_pattern": other_ranks}
    config |= {"use_rslora": False}
    out.mkdir(parents=True)
    save_file(tensors, out / WEIGHTS, metadata={"format": "pt"})
    (out / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
