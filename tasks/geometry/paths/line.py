"""A model whose weights can be set to any point on the straight lines between adapters' updates.

The UPDATES are interpolated: ``(1 - a) s_a B_a A_a + a s_b B_b A_b``, which is the product of the concatenated factors
``[(1 - a) s_a B_a, a s_b B_b] [A_a; A_b]`` of rank r_a + r_b. Interpolating A and B apart would bend the path.

Both products are added onto the base's weights in place for each point, from one copy of those that an adapter
changes. A side branch ``B (A x)`` needs no copy, but costs ``R (in + out)`` operations a token instead of ``R in out``
a point: it only pays below ``in out / (in + out)`` tokens a point (64 at width 128, 512 at 1,024), and decoding would
run it at every step. ``tests/benchmarks/paths.py`` measures both, and the bare forward pass that is the floor.

On bfloat16 weights it is the side branch: added to them, a small update would mostly be rounded away.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tasks.core.errors import InputError
from tasks.geometry.adapters.adapter import AdapterSource
from tasks.geometry.adapters.peft_config import explain, read_json
from tasks.geometry.cosine import module_inner
from tasks.geometry.delta import Factors, Source

if TYPE_CHECKING:
    from torch import Tensor


class _Term(NamedTuple):
    source: int
    """Whose update it is of, as a place in `Line`'s sources."""
    B: Tensor
    """(out, r)"""
    A: Tensor
    """(r, in)"""
    scale: float


class _Module(NamedTuple):
    weight: Tensor
    """(out, in) view of the model's weight."""
    original: Tensor | None
    """Its copy; None where updates are side branches."""
    terms: list[_Term]


class Line:
    """A model whose weights can be set to the base's plus any combination of some adapters' updates.

    ``norms``: Frobenius norm of each whole update, from its factors in float64. Modules that only one adapter has are
    the other's zero. Raises `InputError` naming adapter and module where the model has no such linear module, where
    shapes differ, and where the weight is tied to another module's, which would then change with it.
    """

    def __init__(self, model: Any, sources: Sequence[Source]) -> None:
        import torch

        squared = [0.0] * len(sources)
        self._modules: dict[str, _Module] = {}
        self._placed: dict[str, tuple[Tensor, Tensor]] = {}
        for index, source in enumerate(sources):
            for name, shape in source.shapes.items():
                if name not in self._modules:
                    weight = _weight(model, name, source)
                    beside = weight.dtype is torch.bfloat16
                    self._modules[name] = _Module(weight, None if beside else weight.clone(), [])
                    if beside:
                        self._branch(model, name)
                weight = self._modules[name].weight
                if tuple(weight.shape) != tuple(shape):
                    raise InputError(
                        f"{source.source}: module {name} is {tuple(shape)}, in the base {tuple(weight.shape)}; "
                        "give adapters of this base"
                    )
                update = source.read(name)
                assert isinstance(update, Factors)
                squared[index] += max(module_inner(update, update), 0.0)
                kind = torch.float32 if weight.dtype is torch.bfloat16 else weight.dtype  # rounded when they are placed
                b, a = (
                    torch.from_numpy(np.ascontiguousarray(one)).to(weight.device, kind) for one in (update.B, update.A)
                )
                self._modules[name].terms.append(_Term(index, b, a, update.scale))
        self.norms = [sqrt(value) for value in squared]

    def _branch(self, model: Any, name: str) -> None:
        """From now on the module's output has ``B (A x)`` of what `place` has set added to it."""
        import torch

        def add(module: Any, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
            if name not in self._placed:
                return output
            B, A = self._placed[name]
            return output + torch.nn.functional.linear(torch.nn.functional.linear(inputs[0], A), B)

        model.get_submodule(name).register_forward_hook(add)

    def place(self, coefficients: Sequence[float]) -> None:
        """Set the weights to ``W0 + sum_i coefficients[i] dW_i``, always from W0, so that no error builds up.

        A term with coefficient 0 is left out: an end is exactly what the adapter alone gives.
        """
        import torch

        with torch.no_grad():
            self._placed.clear()
            for name, (weight, original, terms) in self._modules.items():
                if original is None:
                    acting = [one for one in terms if coefficients[one.source]]
                    if acting:
                        scaled = [one.B * (coefficients[one.source] * one.scale) for one in acting]
                        factors = torch.cat(scaled, dim=1), torch.cat([one.A for one in acting])
                        self._placed[name] = (factors[0].to(weight), factors[1].to(weight))
                    continue
                weight.copy_(original)
                for term in terms:
                    if coefficients[term.source]:
                        weight.addmm_(term.B, term.A, alpha=coefficients[term.source] * term.scale)


def open_plain(folder: Path) -> AdapterSource:
    """An adapter whose update is ``scale * B A``; `InputError` with the way out for any other."""
    if reason := explain(read_json(folder)):
        raise InputError(
            f"{folder}: its update is not scale * B A ({reason}), so it has no path here; leave it out, or convert it "
            "to plain LoRA (PEFT's save_pretrained does that for PiSSA and OLoRA: "
            "path_initial_model_for_weight_conversion)"
        )
    return AdapterSource(folder)


def _weight(model: Any, name: str, source: Source) -> Tensor:
    """(out, in) view of the module's weight."""
    import torch
    from transformers.pytorch_utils import Conv1D

    try:
        module = model.get_submodule(name)
    except AttributeError:
        raise InputError(f"{source.source}: the base has no module {name}; give adapters of this base") from None
    if not isinstance(module, torch.nn.Linear | Conv1D):
        raise InputError(f"{source.source}: module {name} is no linear layer; leave this adapter out of the paths")
    if any(other is not module and getattr(other, "weight", None) is module.weight for other in model.modules()):
        raise InputError(
            f"{source.source}: it adapts {name}, whose weight the base ties to another module's; leave this adapter "
            "out of the paths"
        )
    weight: Tensor = module.weight.data
    return weight.T if isinstance(module, Conv1D) else weight
