"""A sweep: a grid or list of cells, each a whole study's settings, over one set of rollouts.

A cell is a `StudySpec`, so cells share every stage whose key they share: the base, the problems, the rollouts and their
grades are computed once, and an adapter that two cells ask for is trained once.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from typing import Any

from pydantic import BaseModel, Field, ValidationError, field_validator

from tasks.core.errors import InputError, nearest
from tasks.core.sections import Section
from tasks.settings.study import StudySpec, build, one_line, override

ONE_SET = ("model.", "tiny.", "rollouts.")
"""What makes the base and the rollouts, which all cells share."""

PREFIX = "sweep."
_LONGEST = 40


class SweepSpec(Section):
    """Which cells: the product of all that is listed here; whatever is not listed is as in the study's settings."""

    seeds: tuple[int, ...] = Field((), title="Seeds", description="LoRA initialisations (`seed`), one cell each.")
    lrs: tuple[float, ...] = Field((), title="Peak learning rates", description="`train.lr`, one cell each.")
    grid: dict[str, tuple[Any, ...]] = Field(
        {}, title="Other settings", description='Values by section.key, such as {"dpo.beta": [0.05, 0.1]}.'
    )
    cells: tuple[dict[str, Any], ...] = Field(
        (),
        title="List of cells",
        description='Settings by section.key, set together, such as [{"train.lr": 1e-3, "train.steps": 80}]; a list '
        "where a grid would have too many.",
    )
    path_problems: int = Field(
        48,
        title="Held-out problems on the paths between seeds",
        description="Each method's path from one seed to the next is read on so many; 0 leaves the paths out.",
        ge=0,
    )
    most_cells: int = Field(200, title="Most cells", description="A longer sweep is refused.", ge=2)

    @field_validator("seeds", "lrs")
    @classmethod
    def _each_once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if twice := [value for i, value in enumerate(values) if value in values[:i]]:
            raise ValueError(f"{twice[0]:g} is listed twice")
        return values

    @field_validator("grid")
    @classmethod
    def _some_values(cls, grid: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
        if empty := [key for key, values in grid.items() if not values]:
            raise ValueError(f"{empty[0]} has no values")
        return grid


@dataclass(frozen=True)
class Cell:
    """One study of a sweep. ``label`` tells it apart from the others; ``values`` are those that are its own."""

    label: str
    values: Mapping[str, Any]
    spec: StudySpec

    @property
    def folder(self) -> str:
        """``label`` as the name of a folder."""
        return self.label.replace(" ", ",")


def build_sweep(values: Mapping[str, Any]) -> SweepSpec:
    """Validated settings of a sweep. Raises `InputError`: one line naming the field."""
    try:
        return SweepSpec.model_validate(dict(values))
    except ValidationError as error:
        raise InputError(f"{PREFIX}{one_line(error, SweepSpec)}") from None


def cells(spec: StudySpec, sweep: SweepSpec) -> list[Cell]:
    """Every cell, validated: the list's entries, then seeds, learning rates and the grid, the last turning fastest.

    Raises `InputError` naming the cell and the field: a key that is unknown or decides the rollouts, a key given twice,
    values that `StudySpec` refuses, two cells that are one study, fewer than two cells or more than ``most_cells``.
    """
    axes = _axes(sweep)
    entries: Sequence[Mapping[str, Any]] = sweep.cells or ({},)
    for key in dict.fromkeys([*(key for entry in entries for key in entry), *axes]):
        _check_key(key, twice=key in axes and any(key in entry for entry in entries))
    count = len(entries)
    for values in axes.values():
        count *= len(values)
    if count < 2:
        raise InputError(f"{PREFIX}seeds: one cell only; give several seeds, learning rates or values, or use study")
    if count > sweep.most_cells:
        raise InputError(
            f"{PREFIX}most_cells: {count} cells, more than {sweep.most_cells}; give fewer values, or "
            f"--set {PREFIX}most_cells={count}"
        )
    chosen = [
        {**entry, **dict(zip(axes, values, strict=True))} for entry in entries for values in product(*axes.values())
    ]
    labels = _labels(chosen)
    base = spec.model_dump(mode="json")
    found = [Cell(label, values, _study(base, label, values)) for label, values in zip(labels, chosen, strict=True)]
    _check_distinct(found)
    return found


def _axes(sweep: SweepSpec) -> dict[str, tuple[Any, ...]]:
    axes: dict[str, tuple[Any, ...]] = {}
    for key, values in (("seed", sweep.seeds), ("train.lr", sweep.lrs), *sweep.grid.items()):
        if key in axes and values:
            raise InputError(f"{PREFIX}grid: {key} is given twice: by itself and in the grid")
        if values:
            axes[key] = values
    return axes


def _check_key(key: str, *, twice: bool) -> None:
    if twice:
        raise InputError(f"{PREFIX}cells: {key} is given twice: in the list of cells and beside it")
    if key.startswith(ONE_SET) or key == "name":
        raise InputError(
            f"{PREFIX}grid: {key}: all cells share one base and one set of rollouts; run studies that differ in it by "
            "themselves and join them with colinear report"
        )
    model: type[BaseModel] = StudySpec
    *sections, last = key.split(".")
    for section in sections:
        field = model.model_fields.get(section)
        kind = field.annotation if field else None
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            raise InputError(f"{PREFIX}grid: {key}: no section {section!r}{nearest(section, model.model_fields)}")
        model = kind
    if last not in model.model_fields:
        raise InputError(f"{PREFIX}grid: {key}: unknown setting {last!r}{nearest(last, model.model_fields)}")


def _study(base: Mapping[str, Any], label: str, values: Mapping[str, Any]) -> StudySpec:
    assignments = [f"{key}={_text(value)}" for key, value in values.items()]
    name = " ".join([str(base["name"]), *(part for part in label.split(" ") if not part.startswith("seed="))])
    try:
        return build({**override(base, assignments), "name": name})
    except InputError as error:
        raise InputError(f"cell {label}: {str(error).removeprefix('--set ')}") from None


def _text(value: Any) -> str:
    """As it would stand after ``--set section.key=``."""
    return value if isinstance(value, str) else json.dumps(value)


def _labels(chosen: Sequence[Mapping[str, Any]]) -> list[str]:
    """``seed=0 lr=0.001``: the keys' last parts where these tell them apart; numbered where values read alike."""
    keys = list(dict.fromkeys(key for values in chosen for key in values))
    last = Counter(key.rpartition(".")[2] for key in keys)
    names = {key: key if last[key.rpartition(".")[2]] > 1 else key.rpartition(".")[2] for key in keys}
    labels = [" ".join(f"{names[key]}={_short(value)}" for key, value in values.items()) for values in chosen]
    seen: Counter[str] = Counter()
    numbered = []
    for label in labels:
        seen[label] += 1
        numbered.append(f"{label} #{seen[label]}" if seen[label] > 1 else label)
    return numbered


def _short(value: Any) -> str:
    """A value in a name: the same however a number was written, without what a file system minds."""
    if not isinstance(value, bool):
        with suppress(TypeError, ValueError):
            return f"{float(value):g}"
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", _text(value)).strip("-")[:_LONGEST] or "empty"


def _check_distinct(found: Sequence[Cell]) -> None:
    known: dict[str, str] = {}
    for cell in found:
        key = cell.spec.model_dump_json(exclude={"name"})
        other = known.setdefault(key, cell.label)
        if other is not cell.label:
            raise InputError(f"cell {cell.label}: the same study as cell {other}; give each value once")
