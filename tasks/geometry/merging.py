"""Before two adapters are merged: what is left of each in their sum, who dominates it, and what PEFT's `linear` makes.

``W0 + w_a dW_a + w_b dW_b`` is the sum of the updates. PEFT's ``add_weighted_adapter`` gives exactly that with
``combination_type="cat"``, which stacks the factors (rank r_a + r_b). ``"linear"`` adds the factors instead: its
update is ``(sum_i c_i B_i)(sum_j c_j A_j)`` with ``c = sqrt(w scale)``, so that the products ``B_a A_b`` and
``B_b A_a``, which nobody trained, come in. Of two adapters that share lora_A they are as large as the mean itself.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import polars as pl

from tasks.core.errors import InputError
from tasks.core.frames import MERGES, checked
from tasks.core.places import places
from tasks.geometry.cosine import module_inner
from tasks.geometry.delta import Factors, Source, shared

WHOLE = "*"


@dataclass(frozen=True)
class Interference:
    """Two updates and their sum, over all modules (``kind`` is ``*``) or those of one kind (``q_proj``).

    A module that only one of them has counts as zero in the other. Norms are Frobenius norms, scale included.
    """

    kind: str
    modules: int
    """That at least one of them has."""
    norm_a: float
    norm_b: float
    norm_sum: float
    """``|dW_a + dW_b|``, exact: of orthogonal updates it is ``sqrt(norm_a^2 + norm_b^2)``."""
    cancelled: float
    """Share of ``norm_a^2 + norm_b^2`` that is gone in the sum, of modules in which the two oppose each other."""
    kept_a: float
    """``<sum, dW_a> / |dW_a|^2``: what the sum has of a's update; 1 where b leaves it alone, 0 where b undoes it. NaN
    for a zero update."""
    kept_b: float
    share_a: float
    """``norm_a^2 / (norm_a^2 + norm_b^2)``; NaN where both are zero."""
    linear_error: float
    """``|linear - mean| / |mean|`` of PEFT's two combinations with weights 1/2. NaN where PEFT refuses `linear`, for
    ranks that differ, and where the mean is zero."""


@dataclass
class _Sums:
    """Sums over modules."""

    modules: int = 0
    aa: float = 0.0
    bb: float = 0.0
    ab: float = 0.0
    opposed: float = 0.0
    crossed: float = 0.0

    def add(self, a: Factors | None, b: Factors | None) -> None:
        self.modules += 1
        self.aa += module_inner(a, a) if a is not None else 0.0
        self.bb += module_inner(b, b) if b is not None else 0.0
        if a is not None and b is not None:
            inner = module_inner(a, b)
            self.ab += inner
            self.opposed += max(-2 * inner, 0.0)
            self.crossed += _crossed(a, b)

    def told(self, kind: str) -> Interference:
        both, whole = self.aa + self.bb, max(self.aa + 2 * self.ab + self.bb, 0.0)
        return Interference(
            kind=kind,
            modules=self.modules,
            norm_a=math.sqrt(self.aa),
            norm_b=math.sqrt(self.bb),
            norm_sum=math.sqrt(whole),
            cancelled=self.opposed / both if both else 0.0,
            kept_a=1 + self.ab / self.aa if self.aa else math.nan,
            kept_b=1 + self.ab / self.bb if self.bb else math.nan,
            share_a=self.aa / both if both else math.nan,
            linear_error=math.sqrt(self.crossed / (whole / 4)) if whole else math.nan,
        )


def _crossed(a: Factors, b: Factors) -> float:
    """``|c_a c_b (B_a A_b + B_b A_a)|_F^2`` with ``c = sqrt(scale / 2)``: by how much `linear` is off the mean.

    PEFT has the sign of a negative scale on A alone.
    """
    if a.B.shape[1] != b.B.shape[1]:
        return math.nan
    c = math.sqrt(abs(a.scale * b.scale)) / 2
    one = Factors(a.B, b.A, math.copysign(c, b.scale))
    two = Factors(b.B, a.A, math.copysign(c, a.scale))
    return max(module_inner(one, one) + 2 * module_inner(one, two) + module_inner(two, two), 0.0)


def interference(a: Source, b: Source) -> list[Interference]:
    """The sum of two LoRA updates against each of them: over everything first, then by kind of module.

    From the factors alone, ``O((out + in) r^2)`` a module. Raises `InputError` where they share no module, where one
    has another shape, and for an update that is no product of factors.

    Examples
    --------
    Two updates of norm 1, one entry each, that agree in the first module and are opposite in the second:

    >>> import numpy as np
    >>> from tasks.geometry.delta import Factors, LoraDelta
    >>> one = Factors(np.array([[1.0], [0.0]]), np.array([[1.0, 0.0]]), 1.0)
    >>> a = LoraDelta({"layers.0.q_proj": one, "layers.0.v_proj": one})
    >>> b = LoraDelta({"layers.0.q_proj": one, "layers.0.v_proj": one._replace(scale=-1.0)})
    >>> whole, q, v = interference(a, b)
    >>> q.norm_sum, v.norm_sum, whole.norm_sum, whole.cancelled
    (2.0, 0.0, 2.0, 0.5)
    """
    shared(a, b)
    names = list(dict.fromkeys([*a.shapes, *b.shapes]))
    sums: dict[str, _Sums] = defaultdict(_Sums)
    for name, place in zip(names, places(names), strict=True):
        pair = [_factors(source, name) if name in source.shapes else None for source in (a, b)]
        for kind in (WHOLE, place.projection):
            sums[kind].add(*pair)
    return [one.told(kind) for kind, one in sums.items()]


def _factors(source: Source, name: str) -> Factors:
    update = source.read(name)
    if not isinstance(update, Factors):
        raise InputError(f"{source.source}: its update is not scale * B A, so PEFT has no factors of it to merge")
    return update


def merges_frame(pairs: Sequence[tuple[str, str, Source, Source]], rooms: Mapping[str, int]) -> pl.DataFrame:
    """MERGES of pairs of adapters, (name, name, source, source) each; ``rooms``: name -> `LoraConfig.room`."""
    rows: list[dict[str, Any]] = []
    for run_a, run_b, a, b in pairs:
        whole = {"run_a": run_a, "run_b": run_b, "room_a": rooms[run_a], "room_b": rooms[run_b]}
        refused = {"linear_error": math.nan} if rooms[run_a] != rooms[run_b] else {}
        rows += [{**whole, **asdict(one), **refused} for one in interference(a, b)]
    numbers = [field.name for field in fields(Interference) if field.type == "float"]
    return checked(pl.DataFrame(rows, schema=MERGES).with_columns(pl.col(numbers).fill_nan(None)), MERGES, "merges")
