"""The reward: is the final answer of a completion equal to the reference answer?

The documented public functions are here, for notebooks and other programs, each loaded when it is first asked for. The
grade of one completion stands in the module of its own name: ``from tasks.grading.grade import grade``.

>>> from tasks.grading import Grade, grade_many
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.grading.grade import Grade, grade_many

__all__ = ["Grade", "grade_many"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.grade"), name)
