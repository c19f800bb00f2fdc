"""Adapters over which every measure is held against its dense definition."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tasks.geometry.adapters.adapter import AdapterSource
from tasks.geometry.adapters.dora import rescaled
from tasks.geometry.delta import Dense, Factors, Source, Update, Weight
from tests.definitions.geometry import Formed, dora
from tests.lab.updates import SHAPES, Memory, dense, frame_of, grid, random_factors, rotation, width

PLACES = grid(2)
CONDITIONS = (1e3, 1e6, 1e9)
ANGLES = (1e-8, 1e-6, 1e-4, 1e-2, 0.5, 0.6, 1.0)
LARGE = (1030, 1100)
"""Sides above `factored.DENSE_LIMIT`."""


@dataclass(frozen=True)
class Case:
    sources: Sequence[Source]
    formed: Sequence[Mapping[str, Formed]]
    places: Mapping[str, tuple[int, str]] = field(default_factory=lambda: PLACES)
    known: Mapping[tuple[str, int], float] = field(default_factory=dict)
    """Values of every module that construction gives: they stand in for the dense ones."""


def formed(update: Update, leading: int | None = None) -> Formed:
    """``update`` multiplied out, in extended precision: the factors' product may cancel.

    Rounding, up to which a singular value is zero, is that of the factors: see
    `tasks.geometry.factored.factor`.
    """
    eps = np.finfo(np.float64).eps
    if isinstance(update, Dense):
        return Formed(update.W, leading or width(update), None, max(update.shape) * eps * np.linalg.norm(update.W, 2))
    b, a = update.B.astype(np.longdouble), update.A.astype(np.longdouble)
    size = abs(update.scale) * float(np.linalg.norm(update.B) * np.linalg.norm(update.A))
    w = (update.scale * b @ a).astype(np.float64)
    return Formed(w, width(update), update.A, max(update.shape) * eps * size)


def case(*adapters: Mapping[str, Update], **rest: Mapping) -> Case:
    return Case(
        [Memory(modules, f"adapter {i}") for i, modules in enumerate(adapters)],
        [{name: formed(update) for name, update in modules.items()} for modules in adapters],
        **rest,
    )


def _random(seed: int, out: int, n_in: int, *ranks: int) -> list[dict[str, Update]]:
    rng = np.random.default_rng(seed)
    return [{name: random_factors(rng, out, n_in, r) for name in PLACES} for r in ranks]


def _zeros() -> Case:
    """One module zero, all modules zero, and an update that is zero because large factors cancel."""
    a, b = _random(1, 12, 9, 4, 4)
    first, second = list(PLACES)[:2]
    part = {**b, first: Factors(np.zeros((12, 4)), b[first].A, 2.0)}
    half, right = b[second].B[:, :2], b[second].A[:2]
    part[second] = Factors(np.hstack([half, half]), np.vstack([right, -right]), 1e3)
    return case(a, part, {name: f._replace(B=np.zeros_like(f.B)) for name, f in a.items()})


def _multiples() -> Case:
    """An adapter, itself, itself scaled, negated, and with other factors of the same product."""
    (a,) = _random(2, 12, 9, 4)
    mix = np.array([[2.0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 4, 0], [0, 0, 1, 0.5]])
    return case(
        a,
        dict(a),
        {name: f._replace(scale=3 * f.scale) for name, f in a.items()},
        {name: f._replace(A=-0.5 * f.A) for name, f in a.items()},
        {name: Factors(f.B @ mix, np.linalg.solve(mix, f.A), f.scale) for name, f in a.items()},
    )


def _orthogonal() -> Case:
    """Output spaces that are orthogonal (a, b), input spaces that are (a, c), both (b, c)."""
    a, b, c = _random(3, 16, 14, 4, 4, 4)
    top, left = (np.arange(16) < 8)[:, None], np.arange(14) < 7
    return case(
        {name: f._replace(B=f.B * top, A=f.A * left) for name, f in a.items()},
        {name: f._replace(B=f.B * ~top, A=f.A * left) for name, f in b.items()},
        {name: f._replace(B=f.B * top, A=f.A * ~left) for name, f in c.items()},
    )


def _conditioned(condition: float) -> Case:
    """``a``: lora_B of that condition; ``b``: well-conditioned update of factors that are not; ``c``: both as usual."""
    a, b, c = _random(4, 24, 18, 5, 5, 5)
    rng = np.random.default_rng(4)
    spread = np.diag(np.geomspace(1, 1 / condition, 5))
    for name in PLACES:
        a[name] = Factors(frame_of(rng, 24, 5) @ spread @ rotation(rng, 5), frame_of(rng, 18, 5).T, 1.5)
        mix = rotation(rng, 5) @ spread @ rotation(rng, 5)
        f = b[name]
        b[name] = Factors(f.B @ mix, np.linalg.solve(mix, f.A), f.scale)
    return case(a, b, c)


def _parallel() -> Case:
    """Two adapters 1e-9 apart."""
    (a,) = _random(5, 24, 18, 4)
    rng = np.random.default_rng(5)
    step = {name: 1e-9 * np.abs(f.B).max() * rng.standard_normal(f.B.shape) for name, f in a.items()}
    return case(a, {name: f._replace(B=f.B + step[name]) for name, f in a.items()})


def _turned(degrees: float) -> Case:
    """Left subspaces: e1 and e2 stay, e3 turns by the angle; right ones: v1 turns and v2, v3 stay. All then rotated."""
    rng, angle = np.random.default_rng(6), np.deg2rad(degrees)
    spread = np.diag([3.0, 2.0, 1.0])
    a, b = {}, {}
    for name in PLACES:
        left, right = rotation(rng, 20), rotation(rng, 16)
        u = np.column_stack([left[:, :2], np.cos(angle) * left[:, 2] + np.sin(angle) * left[:, 3]])
        v = np.column_stack([np.cos(angle) * right[:, 0] + np.sin(angle) * right[:, 3], right[:, 1:3]])
        a[name] = Factors(left[:, :3] @ spread, right[:, :3].T, 1.0)
        b[name] = Factors(u @ spread, v.T, 0.5)
    known = {("angle_left", 1): 0.0, ("angle_left", 2): 0.0, ("angle_left", 3): degrees}
    return case(a, b, known=known | {("angle_right", k): degrees for k in (1, 2, 3)})


def _mixed() -> Case:
    """Full-rank dense updates (merged less base), one of rank 3, and factored ones of two ranks in one comparison."""
    a, b = _random(7, 20, 16, 4, 6)
    rng = np.random.default_rng(7)
    full = {name: Dense(rng.standard_normal((20, 16))) for name in PLACES}
    low = {name: Dense(dense(random_factors(rng, 20, 16, 3))) for name in PLACES}
    return case(a, full, b, low)


def _dora() -> Case:
    """Three DoRA adapters of one base (as one trains them, far from the base, rank above a side's), plain LoRA, and a
    dense update."""
    rng = np.random.default_rng(10)
    (plain,) = _random(10, 20, 16, 4)
    weights = {name: rng.standard_normal((20, 16)) for name in PLACES}
    held = {name: Weight(w, np.sum(w**2, axis=1)) for name, w in weights.items()}
    full: dict[str, Update] = {name: Dense(rng.standard_normal((20, 16))) for name in PLACES}
    updates: list[dict[str, Update]] = [plain, full]
    matrices = [{name: formed(update) for name, update in modules.items()} for modules in updates]
    for rank, size in ((4, 1e-3), (6, 1.0), (18, 0.1)):
        modules, dense_ones = {}, {}
        for name, w in weights.items():
            f = random_factors(rng, 20, 16, rank)._replace(scale=size)
            product = (size * f.B.astype(np.longdouble)) @ f.A.astype(np.longdouble)
            magnitude = np.linalg.norm(w + product.astype(float), axis=1) * (1 + size * rng.standard_normal(20))
            modules[name] = rescaled(held[name], f, magnitude, name)
            update = dora(w, product, magnitude)
            floor = 20 * np.finfo(np.float64).eps * np.linalg.norm(update, 2)
            dense_ones[name] = Formed(update, 16, f.A, floor)
        updates.append(modules)
        matrices.append(dense_ones)
    return Case([Memory(modules, str(i)) for i, modules in enumerate(updates)], matrices)


def _large() -> Case:
    """Dense updates above the limit, where only leading directions are had: a decaying spectrum over noise."""
    rng = np.random.default_rng(8)
    name = next(iter(PLACES))
    spread = np.geomspace(10, 1, 8)
    large = (frame_of(rng, LARGE[0], 8) * spread) @ frame_of(rng, LARGE[1], 8).T + 1e-3 * rng.standard_normal(LARGE)
    updates = (Dense(large), random_factors(rng, *LARGE, 4))
    return Case(
        [Memory({name: update}, str(i)) for i, update in enumerate(updates)],
        [{name: formed(update, leading=4)} for update in updates],
        {name: PLACES[name]},
    )


def _files(folder: Path) -> Case:
    """Directories as PEFT saves them, in four precisions; the definition works on what a reader of the file sees."""
    import torch
    from safetensors.torch import load_file, save_file

    torch.manual_seed(0)
    kinds: list[tuple[torch.dtype, dict, Callable[[int, str], tuple[int, float]]]] = [
        (torch.bfloat16, {}, lambda layer, name: (4, 8 / 4)),
        (torch.float16, {"use_rslora": True}, lambda layer, name: (4, 8 / 4**0.5)),
        (torch.float32, {"rank_pattern": {"q_proj": 6}}, lambda layer, name: (r := 6 if name[0] == "q" else 4, 8 / r)),
        (
            torch.float64,
            {"alpha_pattern": {"layers.1.self_attn.k_proj": 3}, "rank_pattern": {"k_proj": 2}, "use_rslora": True},
            lambda layer, name: (2, (3 if layer == 1 else 8) / 2**0.5) if name == "k_proj" else (4, 8 / 4**0.5),
        ),
    ]
    sources, matrices = [], []
    for number, (dtype, fields, recipe) in enumerate(kinds):
        adapter = folder / str(number)
        adapter.mkdir()
        config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, **fields}
        (adapter / "adapter_config.json").write_text(json.dumps(config))
        key = "base_model.model.{}.lora_{}.weight"
        made = {}
        for name, (layer, projection) in PLACES.items():
            rank, _ = recipe(layer, projection)
            made[key.format(name, "A")] = torch.randn(rank, 18).to(dtype)
            made[key.format(name, "B")] = torch.randn(24, rank).to(dtype)
        save_file(made, adapter / "adapter_model.safetensors")
        read = {
            key: tensor.double().numpy() for key, tensor in load_file(adapter / "adapter_model.safetensors").items()
        }
        sources.append(AdapterSource(adapter))
        matrices.append(
            {
                name: formed(Factors(read[key.format(name, "B")], read[key.format(name, "A")], recipe(*place)[1]))
                for name, place in PLACES.items()
            }
        )
    return Case(sources, matrices)


CASES: dict[str, Callable[[Path], Case]] = {
    **{
        f"random {out} x {n_in}, ranks {a} and {b}": lambda _, shape=(out, n_in, a, b): case(*_random(0, *shape))
        for out, n_in, a, b in SHAPES
    },
    "three ranks": lambda _: case(*_random(9, 20, 16, 6, 1, 3)),
    "zero": lambda _: _zeros(),
    "identical, scaled, negated": lambda _: _multiples(),
    "orthogonal": lambda _: _orthogonal(),
    "nearly parallel": lambda _: _parallel(),
    **{f"angle {degrees:g}": lambda _, degrees=degrees: _turned(degrees) for degrees in ANGLES},
    "files": _files,
    "dense and factored": lambda _: _mixed(),
    "dora": lambda _: _dora(),
    "large dense": lambda _: _large(),
    **{f"condition {c:g}": lambda _, c=c: _conditioned(c) for c in CONDITIONS},
}
"""Name -> adapters; the argument is an empty folder."""
