"""Held-out accuracy: the answers of all models to the same problems, their intervals and their tests.

The documented public functions are here, for notebooks and other programs, each loaded when it is first asked for.
McNemar's test stands in the module of its own name: ``from tasks.evaluation.mcnemar import mcnemar``.

>>> from tasks.evaluation import holm, paired_bootstrap, wilson
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.evaluation.intervals import Interval, holm, paired_bootstrap, wilson
    from tasks.evaluation.logs import read_logs
    from tasks.evaluation.paired import compare_logs

__all__ = ["Interval", "compare_logs", "holm", "paired_bootstrap", "read_logs", "wilson"]

_MODULES = {"compare_logs": "paired", "read_logs": "logs"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'intervals')}"), name)
