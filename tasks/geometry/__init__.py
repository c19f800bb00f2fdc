"""What training did to the weights: updates of adapters and whole models, compared with each other and with chance.

The documented public functions are here, for notebooks and other programs. Each is loaded when it is first asked for,
so that importing this package loads nothing. docs/python.md shows them on two adapters.

>>> from tasks.geometry import cosine_matrix, load_delta
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.geometry.angles import principal_angles
    from tasks.geometry.callback import GeometryCallback
    from tasks.geometry.cka import linear_cka
    from tasks.geometry.connectivity import barrier
    from tasks.geometry.cosine import cosine_matrix, orthogonal_fraction
    from tasks.geometry.delta import load_delta
    from tasks.geometry.inspection import inspect_adapter
    from tasks.geometry.merging import interference
    from tasks.geometry.relations import relate
    from tasks.geometry.spectrum import effective_rank, singular_values
    from tasks.geometry.trajectory import read_trajectory

__all__ = [
    "GeometryCallback",
    "barrier",
    "cosine_matrix",
    "effective_rank",
    "inspect_adapter",
    "interference",
    "linear_cka",
    "load_delta",
    "orthogonal_fraction",
    "principal_angles",
    "read_trajectory",
    "relate",
    "singular_values",
]

_MODULES = {
    "GeometryCallback": "callback",
    "barrier": "connectivity",
    "cosine_matrix": "cosine",
    "effective_rank": "spectrum",
    "inspect_adapter": "inspection",
    "interference": "merging",
    "linear_cka": "cka",
    "load_delta": "delta",
    "orthogonal_fraction": "cosine",
    "principal_angles": "angles",
    "read_trajectory": "trajectory",
    "relate": "relations",
    "singular_values": "spectrum",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
