"""What the shell offers where a preset or a setting is being typed: (word, what it is) pairs for Typer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import BaseModel

Offered = list[tuple[str, str]]


def studies() -> Offered:
    """Names of the studies."""
    from tasks.settings.presets import PRESETS, summary

    return [(name, summary(name)) for name in PRESETS]


def sweeps() -> Offered:
    """Names of the sweeps, and of the studies, which a sweep can be over."""
    from tasks.settings.sweep_presets import SWEEPS, summary

    return [*((name, summary(name)) for name in SWEEPS), *studies()]


def settings() -> Offered:
    """Every setting as ``section.key=``, to go on with its value."""
    from tasks.settings.study import StudySpec

    return [(f"{key}=", title) for key, title in _keys(StudySpec)]


def sweep_settings() -> Offered:
    """The settings of every cell, and those of the sweep itself."""
    from tasks.settings.sweeps import PREFIX, SweepSpec

    return [*settings(), *((f"{PREFIX}{key}=", title) for key, title in _keys(SweepSpec))]


def _keys(model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    from pydantic import BaseModel

    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from ((f"{name}.{key}", title) for key, title in _keys(kind))
        else:
            yield name, field.title or ""
