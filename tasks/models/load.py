"""Load a base model and its tokenizer; the adapter on top, merged, where one is given. Imports torch when called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.contracts import InputError


def device() -> str:
    """``"cuda"`` where this process sees a GPU, else ``"cpu"``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def native_bfloat16(where: str) -> bool:
    """Whether bfloat16 arithmetic is fast there: GPUs and CPUs with AVX512-BF16 or AMX; elsewhere it is emulated."""
    import torch

    if where != "cpu":
        return True
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(probe and probe())


@dataclass(frozen=True)
class Arithmetic:
    """How a model is held and computed with."""

    weights: str
    """Name of the weights' torch dtype."""
    autocast: bool
    """Whether matrix products are in bfloat16 whatever the weights are."""
    attention: str
    """transformers' attention; sdpa's bfloat16 backward pass is slow on a CPU, so eager is used there."""


def arithmetic(precision: str) -> Arithmetic:
    """What a precision of the settings means on this process's device.

    ``auto`` is ``bfloat16`` on a GPU and ``float32`` on a CPU; ``mixed`` keeps float32 weights and computes in
    bfloat16, but in float32 on a CPU that would only emulate it.
    """
    if precision == "auto":
        precision = "bfloat16" if device() == "cuda" else "float32"
    autocast = precision == "bfloat16" or (precision == "mixed" and native_bfloat16(device()))
    return Arithmetic(
        weights="bfloat16" if precision == "bfloat16" else "float32",
        autocast=autocast,
        attention="eager" if autocast and device() == "cpu" else "sdpa",
    )


def load_tokenizer(base: Path | str, pad_token: str | None = None) -> Any:
    """The tokenizer of ``base``. Raises `InputError` where it has no pad token and ``pad_token`` gives none."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(base), trust_remote_code=False)
    if pad_token is not None:
        unknown = tokenizer.convert_tokens_to_ids(pad_token) in (None, tokenizer.unk_token_id)
        if unknown and pad_token != tokenizer.unk_token:  # the unknown token itself is a common choice
            raise InputError(f"model.pad_token: {pad_token!r} is not in the tokenizer of {base}")
        tokenizer.pad_token = pad_token
    if tokenizer.pad_token_id is None:
        eos = tokenizer.eos_token or "</s>"
        raise InputError(f"model.pad_token: the tokenizer of {base} has none; give one: --set model.pad_token='{eos}'")
    if tokenizer.eos_token_id is None:
        raise InputError(f"model.base: the tokenizer of {base} has no end-of-sequence token, which ends every answer")
    return tokenizer


def load_model(base: Path | str, precision: str = "auto", adapter: Path | str | None = None) -> Any:
    """The causal language model of ``base`` on this process's device, with ``adapter`` merged into its weights.

    An adapter is merged into float32 weights, whatever the precision: added to bfloat16 weights, a small update would
    mostly be rounded away.
    """
    from transformers import AutoModelForCausalLM

    chosen = arithmetic("float32" if adapter is not None else precision)
    model = AutoModelForCausalLM.from_pretrained(
        str(base), dtype=chosen.weights, attn_implementation=chosen.attention, trust_remote_code=False,
        use_safetensors=True,
    )  # fmt: skip
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    return model.to(device()).eval()


BARE = "__base__"
"""PEFT's name of no adapter at all, in a batch of rows with their own adapters."""


def load_adapters(base: Path | str, adapters: Mapping[str, Path]) -> Any:
    """``base`` in float32 with all ``adapters`` (name -> PEFT directory) beside it, none merged.

    Each row of a batch chooses its own by name (PEFT's ``adapter_names``), `BARE` the base's. The base is held once.
    Raises `InputError` for an adapter that does not fit the base, or that PEFT cannot mix with others in a batch.
    """
    from peft import PeftModel

    model = load_model(base, "float32")
    for name, folder in adapters.items():
        try:
            if isinstance(model, PeftModel):
                model.load_adapter(str(folder), adapter_name=name)
            else:
                model = PeftModel.from_pretrained(model, str(folder), adapter_name=name)
        except Exception as error:  # whatever PEFT says of a foreign adapter
            said = next(iter(str(error).splitlines()), type(error).__name__)[:200]
            raise InputError(f"adapter {name} ({folder}) does not fit the base {base}: {said}") from error
    return model.eval()


def context_length(base: Path | str, limit: int | None = None) -> int:
    """The longest sequence in tokens: the model's context, or ``limit`` where that is given.

    Raises `InputError` where ``limit`` is beyond the model's context.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(str(base), trust_remote_code=False)
    context = int(getattr(config, "max_position_embeddings", 0) or 2**31)
    if limit is not None and limit > context:
        raise InputError(f"model.max_length: {limit} tokens is beyond the model's context of {context}")
    return limit or context
