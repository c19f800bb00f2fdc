"""Second moments of modules' inputs in one pass of a model over texts. Runs in a worker process: torch when called."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.core.errors import InputError
from tasks.core.places import core
from tasks.geometry.activations.moments import MOST_WIDTH, RANK, Moment, Moments, low_rank

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.geometry.paths.texts import Batch


def collect(
    model: Any, batches: Iterable[Batch], targets: Collection[str], *, most_width: int = MOST_WIDTH, rank: int = RANK
) -> Moments:
    """``S = sum x x^T / tokens`` of the input of every module of ``model`` that one of ``targets`` names.

    ``model``: a causal language model, its weights as they are; ``batches``: texts (`tasks.geometry.paths.texts`), of
    which every token counts once and padding not at all. ``targets``: names of modules, or ends of them (``q_proj``),
    as PEFT takes them. Modules that are given one tensor have one sum. An input wider than ``most_width`` has
    `low_rank` of ``rank`` directions.

    Products and sums are in float32, whatever the model's type: each entry of S is within 1e-6 of the geometric mean of
    its two diagonal entries. Held: the sums on the model's device, beside one batch.

    A module without such an input, and one that the model does not call with a token a row, is not in the result (an
    embedding, an expert of a mixture). Raises `InputError` for inputs that are not finite, and where there is none.
    """
    import torch

    sums = _Sums(most_width, rank)
    named = [(core(name), module) for name, module in model.base_model.named_modules() if _is_target(name, targets)]
    hooks = [module.register_forward_pre_hook(partial(sums.take, name)) for name, module in named]
    try:
        with torch.inference_mode():
            for batch in batches:
                sums.begin(batch.mask.bool())
                model.base_model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return sums.moments()


def _is_target(name: str, targets: Collection[str]) -> bool:
    parts, ends = core(name).split("."), {core(target) for target in targets}
    return any(".".join(parts[start:]) in ends for start in range(len(parts)))


class _Sums:
    """The sums of one pass, by the first module of those that share an input."""

    def __init__(self, most_width: int, rank: int) -> None:
        self._most_width, self._rank = most_width, rank
        self._tokens = 0
        self._sums: dict[str, list[Tensor]] = {}
        """S; or its product with the test matrix, its diagonal, and the test matrix."""
        self._shared: dict[str, str] = {}
        self._left_out: set[str] = set()

    def begin(self, mask_BT: Tensor) -> None:
        """The next batch, whose tokens are where the mask is true."""
        self._mask, self._last = mask_BT, (None, "")
        self._tokens += int(mask_BT.sum())

    def take(self, name: str, _: Any, given: tuple[Any, ...]) -> None:
        """A forward pre-hook: the input that the module is about to have."""
        x = given[0] if given else None
        tensor, leader = self._last
        if x is not None and x is tensor:  # held, so that no other tensor can be in its place
            self._shared[name] = leader
            return
        if x is None or x.dim() != 3 or x.shape[:2] != self._mask.shape or not x.is_floating_point():
            self._left_out.add(name)
            return
        self._last = (x, name)
        self._shared[name] = name
        self._add(name, x[self._mask].float())

    def _add(self, name: str, x_Np: Tensor) -> None:
        width = x_Np.shape[1]
        if width <= self._most_width:
            if name not in self._sums:
                self._sums[name] = [x_Np.new_zeros(width, width)]
            self._sums[name][0].addmm_(x_Np.T, x_Np)
            return
        if name not in self._sums:
            self._sums[name] = [x_Np.new_zeros(width, self._rank), x_Np.new_zeros(width), self._test(x_Np)]
        sketch, diagonal, test = self._sums[name]
        sketch.addmm_(x_Np.T, x_Np @ test)
        diagonal += x_Np.square().sum(dim=0)

    def _test(self, x_Np: Tensor) -> Tensor:
        """(p, rank) orthonormal columns, the same for all inputs of one width."""
        import torch

        drawn = torch.randn(x_Np.shape[1], self._rank, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return torch.linalg.qr(drawn).Q.to(x_Np)

    def moments(self) -> Moments:
        known = {name: leader for name, leader in self._shared.items() if name not in self._left_out}
        if not known:
            raise InputError(
                "the activation-weighted cosine: the base has none of the adapters' modules with one input vector a "
                "token; leave it out (geometry.activations=0, or no --texts)"
            )
        moments: dict[str, Moment] = {}
        for leader in dict.fromkeys(known.values()):
            parts = [part.cpu().numpy() for part in self._sums.pop(leader)]
            if not all(np.isfinite(part).all() for part in parts):
                raise InputError(f"module {leader}: its inputs under the base are NaN or infinite; the base is damaged")
            if len(parts) == 1:
                moments[leader] = Moment((parts[0] + parts[0].T) / np.float32(2 * self._tokens))
            else:
                sketch, diagonal, test = (part.astype(np.float64) for part in parts)
                moments[leader] = low_rank(sketch / self._tokens, test, diagonal / self._tokens)
        return Moments(moments, known)
