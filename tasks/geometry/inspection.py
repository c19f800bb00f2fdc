"""One adapter looked into: did it train, what did it touch, and is anything wrong with the file."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.core.cores import threads
from tasks.core.digests import file_digest
from tasks.core.errors import InputError
from tasks.core.places import core, places
from tasks.core.small_files import not_weights, read_text
from tasks.core.visible import visible
from tasks.geometry.adapters.adapter import ODD, WEIGHTS, AdapterSource
from tasks.geometry.adapters.checkpoint import Checkpoint
from tasks.geometry.adapters.patterns import check_patterns
from tasks.geometry.adapters.peft_config import CONFIG, is_dora, read_json
from tasks.geometry.delta import NotFinite
from tasks.geometry.factored import factor
from tasks.geometry.spectrum import effective_rank, stable_rank

if TYPE_CHECKING:
    import polars as pl

ERROR, WARNING, INFO = "error", "warning", "info"
"""How much a finding matters: the adapter cannot be used as it is; look before you use it; good to know."""

CODES = {
    "not-weights": (ERROR, "The weights file is something else: a Git LFS pointer, a web page, an archive."),
    "unreadable": (ERROR, "The adapter cannot be read, or its update is not scale * B A."),
    "alpha-zero": (ERROR, "lora_alpha is 0: whatever was trained, the adapter changes nothing."),
    "zero-update": (ERROR, "Every lora_B is zero: the adapter is as it was before its first step."),
    "not-finite": (ERROR, "Weights are NaN or infinite: the training diverged."),
    "dead-modules": (WARNING, "Some modules have no update while others have one."),
    "barely-trained": (WARNING, "The update is tiny: beside the base's weights, or lora_B beside lora_A."),
    "wrong-base": (ERROR, "The model of --base lacks the adapter's modules, or has them in another shape."),
    "unmatched-target": (WARNING, "An entry of target_modules has no weights in the file."),
    "uncovered": (WARNING, "Modules of --base that target_modules names have no weights in the file."),
    "uneven-layers": (WARNING, "Layers lack modules that the others have."),
    "rank-one": (WARNING, "Nearly all of the update lies in one direction of its module."),
    "duplicate": (WARNING, "The weights are, bit for bit, those of another adapter."),
    "dora": (INFO, "DoRA: the norms and ranks are those of the LoRA factors alone, without the magnitudes."),
    "not-compared": (INFO, "The file holds more than LoRA factors: saved heads, biases, convolutions."),
    "quantised-base": (INFO, "The adapter was trained on a quantised base."),
    "no-base": (INFO, "The configuration does not say which base the adapter belongs to."),
}
"""Code -> (severity, what it means)."""

BARELY_OF_BASE, BARELY_OF_A = 1e-5, 1e-3
"""Below these an update is called tiny: |dW| / |W| over all modules; without the base |B| / |A|. SmolLM2 after
16 steps of DPO at 5e-5, which hardly moved it, has 1.5e-4 and 5e-3."""

ONE_DIRECTION, LEAST_RANK = 0.95, 4
"""Share of a module's squared norm in its first direction from which a module of at least that rank is named."""

MOST_NAMED = 3

_QUANTISED = re.compile(r"(?i)(bnb|nf4|4bit|8bit|int4|int8|gptq|awq|gguf)")
_CARD = re.compile(r"load_in_(4|8)bit: True")
"""How PEFT's model card (README.md) says what the base was loaded in."""

Note = Callable[[str, str], None]


@dataclass(frozen=True)
class Finding:
    """One thing that was noticed; ``said``: what and where, and the way out."""

    code: str
    severity: str
    said: str


@dataclass(frozen=True)
class Kind:
    """All modules of one kind (``q_proj``): medians of ranks over its modules, norms over all of them. ``layers``:
    where they are, ``0-11, 24``."""

    projection: str
    modules: int
    layers: str
    rank: int
    norm: float
    of_base: float | None
    effective_rank: float | None
    stable_rank: float | None


@dataclass(frozen=True)
class Target:
    """One entry of target_modules, and the modules and layers of the file that it names."""

    entry: str
    modules: int
    layers: str


@dataclass(frozen=True)
class Inspected:
    """One adapter. ``of_base``: |dW| / |W| over its modules, None without the base; ``b_of_a``: |B| / |A|."""

    adapter: str
    base: str | None
    modules: int
    layers: int
    parameters: int
    dtype: str
    norm: float | None
    of_base: float | None
    b_of_a: float | None
    kinds: tuple[Kind, ...]
    targets: tuple[Target, ...]
    findings: tuple[Finding, ...]

    @property
    def worst(self) -> str | None:
        """The gravest severity; None where nothing was found."""
        found = {finding.severity for finding in self.findings}
        return next((one for one in (ERROR, WARNING, INFO) if one in found), None)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @property
    def kind_frame(self) -> pl.DataFrame:
        """A row a kind of module, with the columns of `Kind`."""
        import polars as pl

        return pl.DataFrame([asdict(kind) for kind in self.kinds])

    @property
    def finding_frame(self) -> pl.DataFrame:
        """A row a finding: code, severity, said."""
        import polars as pl

        return pl.DataFrame([asdict(one) for one in self.findings], schema=["code", "severity", "said"])


def inspect_adapter(folder: Path | str, base: Checkpoint | None = None, name: str | None = None) -> Inspected:
    """What `CODES` lists, found in one PEFT adapter's folder; with ``base`` its norms are beside the base's.

    Nothing raises but what is no adapter's folder at all (`InputError`): what is wrong inside is a finding. Cost: its
    factors are read once, module by module; with ``base`` so are the weights of its modules.

    Examples
    --------
    >>> import json, tempfile
    >>> from safetensors.numpy import save_file
    >>> folder = Path(tempfile.mkdtemp())
    >>> key = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    >>> save_file({key.format("A"): np.eye(2, 4), key.format("B"): np.zeros((3, 2))}, folder / WEIGHTS)
    >>> _ = (folder / CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2}))
    >>> [finding.code for finding in inspect_adapter(folder).findings]
    ['zero-update', 'no-base']
    """
    folder = Path(folder)
    raw = read_json(folder)
    found: list[Finding] = []

    def note(code: str, said: str) -> None:
        found.append(Finding(code, CODES[code][0], said))

    named = raw.get("base_model_name_or_path") or None
    if named is None:
        note("no-base", f"{CONFIG} names no base: say which model it is for")
    if named is not None and _QUANTISED.search(str(named)):
        note(
            "quantised-base", f"{visible(str(named))} is a quantised model: merged into another the update is not exact"
        )
    elif bits := _card_bits(folder):
        note("quantised-base", f"README.md says that the base was loaded in {bits} bits: merged into the whole base "
             "the update is not exact")  # fmt: skip
    about = {"adapter": name or folder.name, "base": None if named is None else visible(str(named))}
    if raw.get("lora_alpha") == 0:
        note("alpha-zero", f"lora_alpha is 0 in {CONFIG}: set the value that it was trained with")
    file = folder / WEIGHTS
    if file.is_file() and (said := not_weights(file)):
        note("not-weights", said)
    if not any(finding.severity == ERROR for finding in found):
        try:
            source = AdapterSource(folder, dora=is_dora(folder))
        except InputError as error:
            note("unreadable", str(error))
        else:
            if is_dora(folder):
                note("dora", "what is said here is of its LoRA factors; its magnitudes rescale the base's rows beside "
                     "them: `colinear compare --base MODEL` has the whole update")  # fmt: skip
            return _measured(source, raw, base, found, about)
    nothing = {"modules": 0, "layers": 0, "parameters": 0, "dtype": "-", "norm": None, "of_base": None, "b_of_a": None}
    return Inspected(**about, **nothing, kinds=(), targets=(), findings=_sorted(found))  # type: ignore[arg-type]


def _card_bits(folder: Path) -> str:
    """In how many bits the base was loaded, by the adapter's README; empty where it does not say."""
    try:
        match = _CARD.search(read_text(folder / "README.md"))
    except (OSError, ValueError):
        return ""
    return match[1] if match else ""


def inspect_all(folders: Sequence[tuple[str, Path]], base: Checkpoint | None = None) -> list[Inspected]:
    """`inspect_adapter` of (name, folder) each, and which of them are one and the same file."""
    done = [inspect_adapter(folder, base, name) for name, folder in folders]
    files = [folder / WEIGHTS for _, folder in folders]
    ends = [_ends(file) for file in files]
    digests = [
        file_digest(file) if end is not None and ends.count(end) > 1 else None
        for file, end in zip(files, ends, strict=True)
    ]
    told = []
    for one, digest in zip(done, digests, strict=True):
        replicates = [
            other.adapter for other, own in zip(done, digests, strict=True) if own == digest and other is not one
        ]
        if digest is not None and replicates:
            said = f"its weights are those of {_listed(replicates)}, bit for bit: was one copied in the other's place?"
            one = replace(one, findings=_sorted([*one.findings, Finding("duplicate", WARNING, said)]))
        told.append(one)
    return told


def _ends(file: Path) -> tuple[int, bytes] | None:
    """A file's size and last bytes, those of its last tensor: most files that are not the same differ in them."""
    if not file.is_file():
        return None
    with file.open("rb") as opened:
        size = opened.seek(0, 2)
        opened.seek(max(size - 4096, 0))
        return size, opened.read()


@dataclass(frozen=True)
class _Module:
    """What one module's factors give; ``weight``: the squared norm of its base weight, NaN without the base."""

    name: str
    rank: int
    s: NDArray[np.float64]
    a: float
    b: float
    weight: float

    @property
    def energy(self) -> float:
        return float(np.sum(self.s**2))


def _module(source: AdapterSource, base: Checkpoint | None, name: str) -> _Module | None:
    """One module, measured; None where it is NaN or infinite."""
    try:
        factors = source.read(name)
    except NotFinite:
        return None
    weight = math.nan if base is None else float(np.sum(base.read(base.weight_of(name)) ** 2))
    squares = float(np.sum(factors.A**2)), float(np.sum(factors.B**2))
    return _Module(name, source.ranks[name], factor(factors).s, *squares, weight)


def _measured(
    source: AdapterSource, raw: dict[str, Any], base: Checkpoint | None, found: list[Finding], about: dict[str, Any]
) -> Inspected:
    def note(code: str, said: str) -> None:
        found.append(Finding(code, CODES[code][0], said))

    modules, broken = [], []
    base = base if base is None or _fits(source, base, note) else None
    with threads(len(source.shapes)) as pool:
        for name, module in zip(source.shapes, pool.map(partial(_module, source, base), source.shapes), strict=True):
            if module is None:
                broken.append(name)
            else:
                modules.append(module)
    if broken:
        note("not-finite", f"{_of(broken, source)} NaN or infinite: take an earlier checkpoint, lower the rate")
    dead = [one.name for one in modules if one.energy == 0]
    if modules and len(dead) == len(modules):
        note("zero-update", "every lora_B is zero: saved before the first step, or the optimiser never had it")
    elif dead:
        note("dead-modules", f"{_of(dead, source)} without an update (lora_B is zero): frozen, or never reached")
    sharp = [
        one.name for one in modules if one.energy and len(one.s) >= LEAST_RANK
        and one.s[0] ** 2 >= ONE_DIRECTION * one.energy
    ]  # fmt: skip
    if sharp:
        said = f"{_of(sharp, source)} with {100 * ONE_DIRECTION:g} % of the update or more in one direction"
        note("rank-one", f"{said}: a lower rank would do there, or one example outweighs the rest")
    a, b, energy, weight = (
        math.sqrt(math.fsum(getattr(one, name) for one in modules)) for name in ("a", "b", "energy", "weight")
    )
    of_base, b_of_a = (None if base is None else energy / weight if weight else None), b / a if a else None
    told, limit = (of_base, BARELY_OF_BASE) if base is not None else (b_of_a, BARELY_OF_A)
    small = told is not None and told < limit
    if small and energy:
        beside = f"{of_base:.1e} of the base's" if of_base is not None else f"lora_B {b_of_a:.1e} of lora_A"
        note("barely-trained", f"the update's norm is {energy:.3g}, {beside}: look at the learning rate and the steps")
    targets = _coverage(source, raw, base, note)
    if source.note is not None:
        note("not-compared", source.note)
    dtypes = sorted({source.weights.entries[key].dtype for key in source.weights.shapes})
    return Inspected(
        **about,
        modules=len(source.shapes),
        layers=len({place.cluster for place in places(source.shapes) if place.cluster}),
        parameters=sum(source.ranks[name] * sum(shape) for name, shape in source.shapes.items()),
        dtype=", ".join(dtypes),
        norm=energy,
        of_base=of_base,
        b_of_a=b_of_a,
        kinds=_kinds(modules, with_base=base is not None),
        targets=targets,
        findings=_sorted(found),
    )


def _fits(source: AdapterSource, base: Checkpoint, note: Note) -> bool:
    """Whether the base has every module in the adapter's shape (an embedding's update is stored turned)."""
    for name, shape in source.shapes.items():
        try:
            own = base.shape_of(name)
        except InputError as error:
            note("wrong-base", str(error))
            return False
        if own not in (shape, shape[::-1]):
            said = f"module {name} is {shape} in the adapter and {own} in {base.folder}"
            note("wrong-base", f"{said}: give the model that it was trained on")
            return False
    return True


def _coverage(source: AdapterSource, raw: dict[str, Any], base: Checkpoint | None, note: Note) -> tuple[Target, ...]:
    """What each entry of target_modules names; noted: entries without weights, layers that lack what others have, and
    modules of the base that are named and not there."""
    have = [*source.shapes, *source.left_out.get(ODD, [])]
    try:
        named = _named(raw.get("target_modules"), have, source)
    except InputError as error:
        note("unmatched-target", str(error))
        named = {}
    targets = tuple(Target(entry, len(own), _layers(own)) for entry, own in named.items())
    if idle := [one.entry for one in targets if not one.modules]:
        note("unmatched-target", f"target_modules names {_listed(idle)}, which is no module in the file: a typo?")
    if raw.get("layers_to_transform") is not None:
        return targets  # layers were left out on purpose
    if base is not None and isinstance(raw.get("target_modules"), list) and not raw.get("exclude_modules"):
        stored = [name.removesuffix(".weight") for name in base.shapes if name.endswith(".weight")]
        there, known = _named(raw["target_modules"], stored, source), {core(name) for name in have}
        meant = {name: None for own in there.values() for name in own}
        if missing := [name for name in meant if core(name) not in known]:
            layers = _layers(missing)
            note(
                "uncovered",
                f"{len(missing)} of {len(meant)} modules of the base that target_modules names ({_listed(missing)}"
                f"{f'; layers {layers}' if layers else ''}) have no weights in the file: frozen, or lost in saving?",
            )
    towers: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for place in places(source.shapes):
        if place.layer is not None:
            towers[place.tower][place.layer].add(place.projection)
    odd = [f"{tower or 'layer'} {number}" for tower, layers in sorted(towers.items()) for number in _unusual(layers)]
    if odd:
        every = sum(map(len, towers.values()))
        note("uneven-layers", f"{len(odd)} of {every} layers have other modules than the rest: {_listed(odd)}")
    return targets


def _unusual(layers: Mapping[int, set[str]]) -> list[int]:
    """The layers of one tower that have not the modules that most of its layers have."""
    usual = Counter(map(frozenset, layers.values())).most_common(1)[0][0]
    return [number for number, own in sorted(layers.items()) if own != usual]


def _named(targets: Any, names: Sequence[str], source: AdapterSource) -> Mapping[str, list[str]]:
    """Entry of target_modules -> those of ``names`` that PEFT takes it for: by their end, or by a pattern given as one
    text. Raises `InputError` for a pattern that is none, or that takes too long."""
    if isinstance(targets, list):
        return {entry: [one for one in names if one == entry or one.endswith(f".{entry}")] for entry in targets}
    if not isinstance(targets, str) or targets == "all-linear":
        return {}
    check_patterns({"target_modules": targets}, names, source.weights.path.with_name(CONFIG))
    return {targets: [one for one in names if re.fullmatch(targets, one)]}


def _layers(names: Sequence[str]) -> str:
    """Numbers of the layers that the modules are in, ``0-11, 24``; those of a second tower are not told apart."""
    return _ranges({place.layer for place in places(names) if place.layer is not None})


def _ranges(numbers: Iterable[int]) -> str:
    """``{0, 1, 2, 5} -> '0-2, 5'``."""
    runs = [[n for _, n in own] for _, own in groupby(enumerate(sorted(numbers)), lambda one: one[1] - one[0])]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _kinds(modules: Sequence[_Module], *, with_base: bool) -> tuple[Kind, ...]:
    groups: dict[str, list[_Module]] = defaultdict(list)
    for one, place in zip(modules, places([one.name for one in modules]), strict=True):
        groups[place.projection].append(one)
    kinds = []
    for projection, own in groups.items():
        norm = math.sqrt(math.fsum(one.energy for one in own))
        weight = math.sqrt(math.fsum(one.weight for one in own))
        ranks = [(effective_rank(one.s), stable_rank(one.s)) for one in own if one.energy]
        medians: list[float | None] = [float(x) for x in np.median(ranks, axis=0)] if ranks else [None, None]
        of_base = norm / weight if with_base and weight else None
        layers = _layers([one.name for one in own])
        kinds.append(Kind(projection, len(own), layers, max(one.rank for one in own), norm, of_base, *medians))
    return tuple(kinds)


def _of(names: Sequence[str], source: AdapterSource) -> str:
    return f"{len(names)} of {len(source.shapes)} modules ({_listed(names)})"


def _listed(names: Sequence[Any]) -> str:
    return ", ".join(visible(str(name)) for name in names[:MOST_NAMED]) + (", ..." if len(names) > MOST_NAMED else "")


def _sorted(found: Sequence[Finding]) -> tuple[Finding, ...]:
    order = [ERROR, WARNING, INFO]
    return tuple(sorted(found, key=lambda finding: order.index(finding.severity)))
