"""Open the models to compare and record whether each update came from LoRA factors or from (merged - base)."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.core.errors import InputError
from tasks.core.results import RunInfo
from tasks.core.visible import visible
from tasks.geometry.adapters.adapter import WEIGHTS, AdapterSource, LoraA, no_weights
from tasks.geometry.adapters.checkpoint import Checkpoint, changed
from tasks.geometry.adapters.dora import DoraSource, Weights
from tasks.geometry.adapters.merged import check_mergeable, merge
from tasks.geometry.adapters.other_formats import SCALING
from tasks.geometry.adapters.peft_config import CONFIG, check_known_start, explain, read_json
from tasks.geometry.adapters.rounding import LIMIT, NAMES, NOTHING, Rounding, rounding
from tasks.geometry.adapters.tensors import TensorFile
from tasks.geometry.delta import Dense, Source, check_finite, natural

FACTORED, RESCALED, MERGED = "scale * B A", "diag(d) W + B A", "merged - base"
"""The ways to have an update: from factors, from factors and the base's rows (DoRA), from weights that were merged."""


@dataclass(frozen=True)
class Named:
    """One adapter to compare: what it is called, where it is, and how it was given."""

    info: RunInfo
    folder: Path
    source: str


@dataclass(frozen=True, eq=False)
class Opened:
    """One adapter, open for reading module by module. ``about``: its row of the ADAPTERS frame.

    But for ``source`` nothing in it depends on where the files lie: ``base`` is what the adapter's configuration names.
    """

    source: Source
    about: Mapping[str, Any]

    def described(self) -> dict[str, Any]:
        """``about``, and of a difference how its weights are stored: known when all its modules have been read."""
        if not isinstance(self.source, Difference):
            return dict(self.about)
        whole = self.source.whole
        stored = {
            "dtype": self.source.kinds,
            "changed": whole.changed / whole.entries if whole.entries else None,
            "rounding": whole.share,
        }
        return {**self.about, **stored}

    def warning(self) -> str | None:
        """What rounding did to a difference, or to DoRA's start; None where it is below `LIMIT` of an update."""
        if isinstance(self.source, DoraSource):
            return self.source.warning()
        if not isinstance(self.source, Difference):
            return None
        found, whole = self.source.rounding, self.source.whole
        lost = sum(one.too_large for one in found.values())
        if not lost:
            return None
        return (
            f"its weights are stored in {self.source.kinds}: {100 * whole.changed / whole.entries:.3g} % of the "
            "entries differ from the base's, and the expected norm of the rounding is "
            f"{100 * whole.share:.3g} % of the update's; no rank is given for {lost} of {len(found)} modules, where it "
            f"is above {100 * LIMIT:.0f} %; its cosine with itself before the rounding is {whole.cosine:.2f} or so, "
            "and cosines with other updates are too near 0"
        )


class Difference:
    """A fine-tuned model less its base, as a `Source`: only the matrices that differ.

    ``initial``: the lora_A of the adapter that was merged, to be given along with the updates.
    """

    rank = None

    def __init__(self, base: Checkpoint, model: Checkpoint, source: str, initial: LoraA | None = None) -> None:
        self.source, self._base, self._model, self._initial = source, base, model, initial
        names, self.rest = changed(base, model)
        if not names:
            raise InputError(f"{source}: no matrix differs from {base.folder}; there is no update to compare")
        self.shapes = {name: model.shape_of(name) for name in sorted(names, key=natural)}
        self.rounding: dict[str, Rounding] = {}
        """Module -> what rounding did to it, of those that were read."""

    @property
    def kinds(self) -> str:
        """How the model's weights are stored: one type, or all of them."""
        return ", ".join(sorted({NAMES[self._model.kind_of(name)] for name in self.shapes}))

    @property
    def whole(self) -> Rounding:
        """`rounding` over all modules that were read."""
        return sum((self.rounding[name] for name in self.shapes if name in self.rounding), start=NOTHING)

    def read(self, module: str) -> Dense:
        """One module's update, (out, in) float64."""
        shape = self.shapes[module]
        weight = self._model.read_weight(module, shape)
        update = weight - self._base.read_weight(module, shape)
        check_finite(update, "the update", f"{self.source}: module {module}")
        lora_a = self._initial.read(module) if self._initial else None
        found = rounding(update, weight, self._model.kind_of(module), self._base.kind_of(module))
        self.rounding[module] = found
        return Dense(update, lora_a, found.too_large)


def check(adapter: Named, base: Path | None, weights: Weights | None = None) -> AdapterSource | DoraSource | None:
    """Refuse what cannot be opened, reading no weights: an `InputError` names the folder or file and the way out.

    Returns the adapter where its update is had from its factors, DoRA's with ``weights`` (by default those of
    ``base``), and None where it has to be had by merging.
    """
    folder = adapter.folder
    if not (folder / CONFIG).is_file() and (folder / "config.json").is_file():
        Checkpoint(folder)
        if base is None:
            raise InputError(f"{folder}: a whole model, whose update is its difference from a base: give --base MODEL")
        return None
    raw = read_json(folder)
    check_known_start(raw, folder / CONFIG)
    reason = explain(raw)
    if reason is None:
        return AdapterSource(folder)
    if not (folder / WEIGHTS).is_file():
        raise InputError(no_weights(folder))
    file = TensorFile(folder / WEIGHTS)
    rescaled, product = bool(raw.get("use_dora")), {**raw, "use_dora": False}
    if explain(product, beside=False) is None:
        if base is None and not rescaled:
            return AdapterSource(folder)
        if base is not None and (explain(product) is None or not _mergeable(raw, file, Checkpoint(base))):
            return DoraSource(folder, weights or Weights(Checkpoint(base))) if rescaled else AdapterSource(folder)
    if base is None:
        named = raw.get("base_model_name_or_path")
        raise InputError(
            f"{folder}: its update is not scale * B A ({reason}), so it takes the base weights: give --base MODEL"
            + (f" (its configuration names {named})" if named else "")
        )
    check_mergeable(folder, raw, file, Checkpoint(base))
    return None


def _mergeable(raw: Mapping[str, Any], file: TensorFile, base: Checkpoint) -> bool:
    """Whether what was trained beside scale * B A can be compared too: it is saved whole, and as large as in the base.

    Not so biases of LoRA's own, stacked experts, and a vocabulary that grew.
    """
    if raw.get("lora_bias") or raw.get("target_parameters"):
        return False
    for key, shape in file.shapes.items():
        name = key.removeprefix("base_model.model.")
        stored = base.find(name) if "lora_" not in name else None
        if stored is not None and base.shapes[stored] != shape:
            return False
    return True


def open_adapter(adapter: Named, base: Path | None, scratch: Path, weights: Weights | None = None) -> Opened:
    """Open one adapter. ``scratch``: where a merged model is written, for one whose update no factors give.

    ``weights``: those of ``base``, for adapters that are to share them. Raises `InputError` as `check` does, and for
    what PEFT cannot merge.
    """
    source, folder = check(adapter, base, weights), adapter.folder
    if not (folder / CONFIG).is_file():
        assert base is not None
        whole = Difference(Checkpoint(base), Checkpoint(folder), str(folder))
        return _difference(adapter, whole, {"base": None, "kind": "full fine-tune"})
    raw = read_json(folder)
    reason = explain(raw)
    about = {"base": raw.get("base_model_name_or_path") or None, "kind": _kind(raw)}
    if isinstance(source, DoraSource):
        factored = _factored(source.factors, reason)
        rows = sum(out for out, _ in source.shapes.values())
        more = {"update": RESCALED, "rank": None, "parameters": factored["parameters"] + rows}
        return Opened(source, {**about, **factored, **more, **_common(adapter)})
    if source is not None:
        return Opened(source, {**about, **_factored(source, raw.get(SCALING)), **_common(adapter)})
    assert base is not None
    scratch.mkdir(parents=True, exist_ok=True)
    out = Path(tempfile.mkdtemp(prefix="merged-", dir=scratch))  # a label is no file name, and two may share one
    merge(folder, base, out)
    merged = Difference(Checkpoint(base), Checkpoint(out), str(folder), LoraA(folder))
    return _difference(adapter, merged, {**about, "note": reason})


def _factored(source: AdapterSource, scaling: str | None) -> dict[str, Any]:
    return {
        "update": FACTORED,
        "rank": max(source.ranks.values()),
        "modules": len(source.shapes),
        "parameters": sum(source.ranks[name] * sum(shape) for name, shape in source.shapes.items()),
        "size": source.weights.path.stat().st_size,
        "note": "; ".join(filter(None, (scaling, source.note))) or None,
    }


def _difference(adapter: Named, source: Difference, about: dict[str, Any]) -> Opened:
    notes = [about["note"]] if about.get("note") else []
    if source.rest:
        what = (
            "1 other tensor differs and is"
            if len(source.rest) == 1
            else f"{len(source.rest)} other tensors differ and are"
        )
        more = ", ..." if len(source.rest) > 3 else ""
        notes.append(f"{what} not compared ({', '.join(map(visible, source.rest[:3]))}{more})")
    measured = {
        "update": MERGED,
        "rank": None,
        "modules": len(source.shapes),
        "parameters": sum(math.prod(shape) for shape in source.shapes.values()),
        "size": sum(file.stat().st_size for file in adapter.folder.glob("*.safetensors")),
        "note": "; ".join(notes) or None,
    }
    return Opened(source, {**about, **measured, **_common(adapter)})


def _common(adapter: Named) -> dict[str, Any]:
    return {"run": adapter.info.run, "source": adapter.source}


def _kind(raw: Mapping[str, Any]) -> str:
    """What people call it: ``LoRA``, ``rsLoRA``, ``DoRA``, ``LoRA (pissa)``, or PEFT's name of another type."""
    if raw.get("peft_type") != "LORA":
        return str(raw.get("peft_type"))
    name = "DoRA" if raw.get("use_dora") else "rsLoRA" if raw.get("use_rslora") else "LoRA"
    init = raw.get("init_lora_weights", True)
    return f"{name} ({init})" if isinstance(init, str) else name
