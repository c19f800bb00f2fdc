"""How alike the methods' gradients are before the first step: cosines from inner products of their parts.

The rows are cut into P parts. A method's gradient is the sum of those of its parts, each weighted by what the method's
loss divides by (completion tokens, or examples), which is the gradient of its loss on all rows as one batch. Everything
follows from the inner products of all parts of all methods: the cosine of the wholes, that of halves of the rows, the
jackknife that leaves out one part after the other, and the cosine without the noise of the rows, whose inner products
are over pairs of DIFFERENT parts, within a method and between two: noise of one part has none with that of another.

Shapes: ``_M`` methods, ``_P`` parts, ``_N`` modules, ``_R`` rows of the frame: groups of modules, then modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasks.core.chance import student
from tasks.core.frames import GRADIENTS, checked
from tasks.core.places import groups_of, places

PARTS = 8
"""Of the rows. Their first half and their second are the halves; the interval is a jackknife with 7 degrees of
freedom."""

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Gradients:
    """One method's gradients at the base, by the name of the module.

    ``projected``: (PARTS, out r) of lora_B, each part times its share of what the loss divides by, so that their sum is
    the gradient on all rows; ``dense``: (out in) of the module's weight on all rows, empty where it was not computed.
    """

    method: str
    examples: int
    projected: dict[str, NDArray[np.float32]]
    dense: dict[str, NDArray[np.float32]]


def alignment_frame(found: Sequence[Gradients]) -> pl.DataFrame:
    """GRADIENTS of every two methods; ``found`` have the same modules. Null marks what is not defined (no gradient in a
    module, no example in a half) and, of ``cosine``, what was not computed.

    Examples
    --------
    Two methods, one module with two weights, one gradient in every part: cosine 4 / 5, and halves that agree.

    >>> def method(name, x, y):
    ...     g = np.array([x, y], dtype=np.float32)
    ...     return Gradients(name, 8, {"layers.0.q_proj": np.tile(g, (PARTS, 1))}, {"layers.0.q_proj": g})
    >>> frame = alignment_frame([method("sft", 1, 0), method("dft", 4, 3)])
    >>> frame.select(pl.col("cosine", "projected", "half_a", "corrected").round(6)).row(0)
    (0.8, 0.8, 1.0, 0.8)
    """
    if len(found) < 2:
        return pl.DataFrame(schema=GRADIENTS)
    modules = list(found[0].projected)
    where = places(modules)
    groups = groups_of(where)
    members_RN = np.vstack([[group.members for group in groups], np.eye(len(modules))])
    parts_RMPMP = np.tensordot(members_RN, _inner(modules, [one.projected for one in found]), axes=1)
    columns = _of_parts(parts_RMPMP)
    if all(one.dense for one in found):
        dense = [{name: one.dense[name][None] for name in modules} for one in found]
        whole_RMM = np.tensordot(members_RN, _inner(modules, dense), axes=1)[:, :, 0, :, 0]
        columns["cosine"] = _cosines(whole_RMM, _diagonal(whole_RMM))
    labels: dict[str, list[Any]] = {
        "module": ["*"] * len(groups) + modules,
        "layer": [group.layer for group in groups] + [place.layer for place in where],
        "projection": [group.projection for group in groups] + [place.projection for place in where],
    }
    frames = [
        pl.DataFrame(
            {
                "method_a": [found[a].method] * len(labels["module"]),
                "method_b": [found[b].method] * len(labels["module"]),
                "examples_a": [found[a].examples] * len(labels["module"]),
                "examples_b": [found[b].examples] * len(labels["module"]),
                **labels,
                **{name: column[:, a, b] for name, column in columns.items()},
            },
            schema_overrides=GRADIENTS,
        ).with_columns(pl.lit(None, pl.Float64).alias(name) for name in ("cosine",) if name not in columns)
        for a, b in combinations(range(len(found)), 2)
    ]
    return checked(pl.concat(frames).with_columns(pl.col(pl.Float64).fill_nan(None)), GRADIENTS, "gradients")


def _inner(modules: Sequence[str], gradients: Sequence[dict[str, NDArray[np.float32]]]) -> Array:
    """(N, M, P, M, P) inner products of all parts of all methods, one module at a time."""
    M, P = len(gradients), len(gradients[0][modules[0]])
    stacked = (np.vstack([one[name] for one in gradients]).astype(np.float64) for name in modules)
    return np.array([(rows @ rows.T).reshape(M, P, M, P) for rows in stacked])


def _of_parts(parts_RMPMP: Array) -> dict[str, Array]:
    """The frame's columns but the dense cosine, (R, M, M) each; its [a, b] is that of method a with method b."""
    P = parts_RMPMP.shape[2]
    first = (np.arange(P) < P // 2).astype(np.float64)
    # The sums that are looked at: all parts, either half, all but one.
    sums_KP = np.vstack([np.ones(P), first, 1 - first, 1 - np.eye(P)])
    inner_KKRMM = np.einsum("kp,rmpnq,lq->klrmn", sums_KP, parts_RMPMP, sums_KP, optimize=True)
    whole_RMM, low, high = _jackknifed([_cosines(one, _diagonal(one)) for one in _kept(inner_KKRMM)])
    # Parts with themselves: of the sums over all parts and over all but one, what is noise with itself.
    same_PRMM = np.einsum("rmpnp->prmn", parts_RMPMP)
    alone = [same_PRMM.sum(0), *(same_PRMM.sum(0) - one for one in same_PRMM)]
    apart = [one - own for one, own in zip(_kept(inner_KKRMM), alone, strict=True)]
    corrected, corrected_low, corrected_high = _jackknifed([_quotient(one, _diagonal(one)) for one in apart])
    halves_RM = _halves(inner_KKRMM)
    return {
        "projected": whole_RMM,
        "low": np.clip(low, -1, 1),
        "high": np.clip(high, -1, 1),
        "half_a": np.broadcast_to(halves_RM[:, :, None], whole_RMM.shape),
        "half_b": np.broadcast_to(halves_RM[:, None, :], whole_RMM.shape),
        "corrected": corrected,
        "corrected_low": corrected_low,
        "corrected_high": corrected_high,
    }


def _kept(inner_KKRMM: Array) -> list[Array]:
    """Inner products of the sums over all parts, then of those over all but one."""
    return [inner_KKRMM[k, k] for k in (0, *range(3, len(inner_KKRMM)))]


def _halves(inner_KKRMM: Array) -> Array:
    """(R, M) cosine of each method's gradients on the two halves."""
    first, second = (_diagonal(inner_KKRMM[k, k]) for k in (1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.clip(_diagonal(inner_KKRMM[1, 2]) / np.sqrt(first) / np.sqrt(second), -1, 1)


def _jackknifed(values: Sequence[Array]) -> tuple[Array, Array, Array]:
    """A value on all parts and its 95 % interval, from it and its values without one part after the other."""
    whole, without = values[0], np.stack(values[1:])
    P = len(without)
    error = np.std(P * whole - (P - 1) * without, axis=0, ddof=1) / np.sqrt(P)
    return whole, whole - student(P - 1) * error, whole + student(P - 1) * error


def _diagonal(inner_RMM: Array) -> Array:
    """(R, M) of every method with itself."""
    return np.einsum("rmm->rm", inner_RMM)


def _cosines(inner_RMM: Array, squared_RM: Array) -> Array:
    return np.clip(_quotient(inner_RMM, squared_RM), -1, 1)


def _quotient(inner_RMM: Array, squared_RM: Array) -> Array:
    """Over the roots of both methods' squares; NaN where either is not above 0."""
    roots_RM = np.sqrt(np.where(squared_RM > 0, squared_RM, np.nan))
    return inner_RMM / roots_RM[:, :, None] / roots_RM[:, None, :]
