"""Load a base model and its tokenizer; the adapter on top, merged, where one is given. Imports torch when called."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.core.errors import InputError
from tasks.workers import cpu


def device() -> str:
    """``"cuda"`` where this process sees a GPU, else ``"cpu"``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def native_bfloat16(where: str) -> bool:
    """Whether bfloat16 arithmetic is fast there: GPUs and CPUs with AVX512-BF16 or AMX; elsewhere it is emulated."""
    return where != "cpu" or cpu.has_bfloat16()


def stored_in_16_bits(base: Path | str | None) -> bool:
    """Whether the largest tensor of the first weights file in the folder ``base`` has 16 bits an entry; none is read.

    False for what is no folder with safetensors files. Raises `InputError` where that file is damaged.
    """
    files = sorted(Path(base).glob("*.safetensors")) if base is not None and Path(base).is_dir() else []
    if not files:
        return False
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(files[0]), framework="np") as opened:
            slices = [opened.get_slice(name) for name in opened.keys()]  # noqa: SIM118 (it is no mapping)
            largest = max(slices, key=lambda one: math.prod(one.get_shape()), default=None)
            return largest is not None and largest.get_dtype() in ("BF16", "F16")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{files[0]}: not a readable safetensors file ({error}); copy it again") from error


def resolved(precision: str, base: Path | str | None, where: str) -> str:
    """``auto`` as what it means for the weights of ``base`` on a device ``where`` (``"cpu"``, or a GPU's name).

    bfloat16 on a GPU; on a CPU that computes in it where the weights are stored in 16 bits, for they lose nothing then
    and float32 takes two to six times as long; else float32. Other precisions stay as they are.
    """
    if precision != "auto":
        return precision
    return "bfloat16" if where != "cpu" or (native_bfloat16(where) and stored_in_16_bits(base)) else "float32"


def light(base: Path | str | None, where: str) -> bool:
    """Whether models that are only read, not trained, are held in bfloat16: on a CPU as `resolved` says of ``auto``.

    On a GPU they are in float32.
    """
    return where == "cpu" and resolved("auto", base, where) == "bfloat16"


def computed_on(kind: str, base: Path | str, precision: str = "auto") -> str:
    """The device in a stage's key: its ``kind``, and that a CPU computes in bfloat16 where it does."""
    return "cpu bfloat16" if kind == "cpu" and resolved(precision, base, kind) == "bfloat16" else kind


@dataclass(frozen=True)
class Arithmetic:
    """How a model is held and computed with."""

    weights: str
    """Name of the weights' torch dtype."""
    autocast: bool
    """Whether matrix products are in bfloat16 whatever the weights are."""
    attention: str
    """transformers' attention; sdpa's bfloat16 backward pass is slow on a CPU, so eager is used there."""


def arithmetic(precision: str, base: Path | str | None = None) -> Arithmetic:
    """What a precision of the settings means for ``base`` on this process's device: see `resolved`.

    ``mixed`` keeps float32 weights and computes in bfloat16, but in float32 on a CPU that would only emulate it.
    """
    precision = resolved(precision, base, device())
    autocast = precision == "bfloat16" or (precision == "mixed" and native_bfloat16(device()))
    return Arithmetic(
        weights="bfloat16" if precision == "bfloat16" else "float32",
        autocast=autocast,
        attention="eager" if autocast and device() == "cpu" else "sdpa",
    )


def core(model: Any) -> Any:
    """The causal language model itself, out of PEFT's wrapping where it has one."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def computing(model: Any) -> Iterator[None]:
    """Within it, forward passes of ``model`` are in the arithmetic of its weights: adapters on bfloat16 weights, which
    are themselves in float32, are multiplied in bfloat16, as in training."""
    import torch

    inner = core(model)
    with torch.autocast(inner.device.type, torch.bfloat16, enabled=inner.dtype is torch.bfloat16):
        yield


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

    chosen = arithmetic("float32" if adapter is not None else precision, base)
    model = AutoModelForCausalLM.from_pretrained(
        str(base), dtype=chosen.weights, attn_implementation=chosen.attention, trust_remote_code=False,
        use_safetensors=True,
    )  # fmt: skip
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    return model.to(device()).eval()


def load_read(base: Path | str) -> Any:
    """The causal language model of ``base``, for reading what it computes: in bfloat16 where `light`, else float32."""
    return load_model(base, "bfloat16" if light(base, device()) else "float32")


BARE = "__base__"
"""PEFT's name of no adapter at all, in a batch of rows with their own adapters."""


def load_adapters(base: Path | str, adapters: Mapping[str, Path]) -> Any:
    """``base`` with all ``adapters`` (name -> PEFT directory) beside it, none merged.

    In float32; in bfloat16 with float32 adapters where `light` says so.

    Each row of a batch chooses its own by name (PEFT's ``adapter_names``), `BARE` the base's. The base is held once.
    Raises `InputError` for an adapter that does not fit the base, or that PEFT cannot mix with others in a batch.
    """
    from peft import PeftModel

    model = load_read(base)
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
