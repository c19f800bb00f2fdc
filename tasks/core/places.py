"""Where a module is in its model, by its name, and which modules of a model are looked at together."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Place(NamedTuple):
    """Where a module is in its model."""

    tower: str
    """Of several stacks of layers the one that it is in (``visual.blocks``); empty in the largest, or the only one."""
    layer: int | None
    """Its layer's number in that stack; None outside of layers."""
    projection: str
    """The last part of its name, in a tower with that before it: ``q_proj``, ``visual.blocks.*.proj``."""

    @property
    def cluster(self) -> tuple[str, int] | None:
        """What tells its layer from all others of the model; None outside of layers."""
        return None if self.layer is None else (self.tower, self.layer)


PREFIXES = frozenset({"base_model", "model", "language_model", "transformer", "module", "_orig_mod"})
"""Leading parts of a name that depend on which class saved the model, or wrapped it, not on which weight it is."""

_NAMES = {"unembed_tokens": "lm_head"}
"""Other names of a module."""


def core(name: str) -> str:
    """The name without what depends on the class or the wrapper that saved it: see `PREFIXES`.

    >>> core("language_model.model.layers.0.q_proj"), core("model.visual.blocks.0._orig_mod.proj")
    ('layers.0.q_proj', 'visual.blocks.0.proj')
    """
    parts = [part for part in name.split(".") if part != "_orig_mod"]
    while len(parts) > 1 and parts[0] in PREFIXES:
        parts = parts[1:]
    return ".".join([_NAMES.get(parts[0], parts[0]), *parts[1:]])


def places(modules: Iterable[str]) -> list[Place]:
    """The place of each module. Layers of two stacks, a vision tower's and a language model's, are never taken for one.

    >>> [(place.tower, place.layer, place.projection) for place in places(["layers.3.q_proj", "layers.4.q_proj",
    ...                                                                    "visual.blocks.3.proj"])]
    [('', 3, 'q_proj'), ('', 4, 'q_proj'), ('visual.blocks', 3, 'visual.blocks.*.proj')]
    """
    found = [_numbered(name) for name in modules]
    towers = Counter(tower for tower, layer, _ in found if layer is not None)
    # The one with most modules; of two alike the one whose name is shortest, as the language model's `layers` is.
    main = min(towers, key=lambda tower: (-towers[tower], len(tower), tower), default="")
    return [
        Place("", layer, last) if layer is None or tower == main else Place(tower, layer, f"{tower}.*.{last}")
        for tower, layer, last in found
    ]


def _numbered(module: str) -> tuple[str, int | None, str]:
    """``model.layers.3.self_attn.q_proj -> layers, 3, q_proj``; kohya's names have underscores in place of dots."""
    parts = core(module).split(".")
    if len(parts) == 1 and module.startswith("lora_"):
        match = re.fullmatch(r"(?P<tower>.+?)_(?P<layer>\d{1,9})_(?P<last>.+)", module)
        return (match["tower"], int(match["layer"]), match["last"]) if match else ("", None, module)
    number = next((i for i, part in enumerate(parts) if part.isdecimal() and len(part) < 10), None)
    return ("", None, parts[-1]) if number is None else (".".join(parts[:number]), int(parts[number]), parts[-1])


class Group(NamedTuple):
    """Modules whose value is given together, as row "*" of a frame: all, those of one layer, those of one projection.

    A layer of another tower than the largest has that tower in its ``projection`` (``visual.blocks.*``).
    """

    layer: int | None
    projection: str | None
    members: tuple[bool, ...]
    """Of each module, whether it is one of them."""


def groups_of(found: Sequence[Place]) -> list[Group]:
    """All modules together, then each layer, then each projection.

    >>> [(group.layer, group.projection, sum(group.members)) for group in groups_of(places(["layers.3.q_proj",
    ...                                                                                     "layers.3.v_proj"]))]
    [(None, None, 2), (3, None, 2), (None, 'q_proj', 1), (None, 'v_proj', 1)]
    """
    clusters = dict.fromkeys(place.cluster for place in found if place.cluster is not None)
    projections = dict.fromkeys(place.projection for place in found)
    return [
        Group(None, None, (True,) * len(found)),
        *(
            Group(layer, f"{tower}.*" if tower else None, tuple(place.cluster == (tower, layer) for place in found))
            for tower, layer in clusters
        ),
        *(Group(None, name, tuple(place.projection == name for place in found)) for name in projections),
    ]
