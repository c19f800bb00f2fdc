"""How a causal language model reads its hidden states out: the final norm and the head, found and verified."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Readout:
    """``logits = head(norm(hidden state of the last layer))``; looked up anew each time, as adapters may wrap them."""

    model: Any
    norm_name: str
    """Path of the final norm within the model without its head."""

    def head(self, states: Tensor) -> Tensor:
        """(..., p) states after the final norm -> (..., V) float32 logits."""
        return self.model.get_output_embeddings()(states).float()

    def norm(self, states: Tensor) -> Tensor:
        """(..., p) hidden states of any layer before the last -> the same after the final norm."""
        return self.model.base_model.get_submodule(self.norm_name)(states)

    def adapted(self) -> bool:
        """Whether an adapter wraps the head, so that it must be switched with the rest of the model."""
        return any(type(part).__module__.startswith("peft.") for part in self.model.get_output_embeddings().modules())


def find_readout(model: Any, ids: list[int]) -> Readout:
    """The final norm and the head of a transformers causal language model, before adapters are put on it.

    Both are checked with a forward pass of ``ids``: the head must give the model's own logits from the last hidden
    state (it does not where logits are scaled or capped afterwards), and the norm must have made that state. Without
    such a norm (post-norm models) ``norm_name`` is empty. Raises `InputError` where the head does not pass.
    """
    import torch

    inner, head, kind = model.base_model, model.get_output_embeddings(), type(model).__name__
    if inner is model or head is None:
        raise InputError(f"model.base: {kind} has no output embedding that could read out hidden states")
    made: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: made.__setitem__(name, output))
        for name, module in inner.named_modules()
        if "norm" in type(module).__name__.lower() and not any(part.isdigit() for part in name.split("."))
    ]
    try:
        with torch.inference_mode():
            batch = torch.tensor([ids], device=next(model.parameters()).device)
            last = inner(input_ids=batch, use_cache=False).last_hidden_state
            logits = model(input_ids=batch, use_cache=False).logits.float()
            if not torch.allclose(head(last).float(), logits, rtol=1e-3, atol=1e-3 * float(logits.std())):
                raise InputError(f"model.base: the logits of {kind} are not its output embedding of the last state")
    finally:
        for hook in hooks:
            hook.remove()
    names = [name for name, output in made.items() if torch.equal(output, last)]
    return Readout(model, names[-1] if names else "")
