"""Merge an adapter whose update is not ``scale * B A`` into its base, so that merged minus ORIGINAL weights gives dW.

For DoRA, PiSSA, OLoRA, saved whole weights, biases, LoHa, LoKr, IA3, VeRA, OFT and whatever else PEFT can merge. PEFT
changes the base when it loads a PiSSA or OLoRA adapter; the difference from the original base is what was learned.

Rounding: adapted layers are merged and saved in float64. In float32 (rounded at 6e-8 of |w|) the rounding of a module
was 2.5e-8 |W0|_F / |dW|_F of its update: 2.5e-5 for an update of a thousandth of the base, spread over ALL directions,
so that ranks and spectra would have shown a full-rank tail that is not there. PiSSA and OLoRA keep that error, because
PEFT subtracts their initial factors from the base in float32.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.core.errors import InputError
from tasks.geometry.adapters.adapter import WEIGHTS
from tasks.geometry.adapters.checkpoint import Checkpoint
from tasks.geometry.adapters.patterns import check_patterns
from tasks.geometry.adapters.peft_config import CONFIG
from tasks.geometry.adapters.tensors import TensorFile

MERGEABLE = (
    "LORA", "ADALORA", "ADAMSS", "BEFT", "BOFT", "C3A", "DEFT", "DELORA", "FOURIERFT", "FROD", "GLORA", "GRALORA",
    "HIRA", "HRA", "IA3", "LILY", "LN_TUNING", "LOHA", "LOKR", "MISS", "OFT", "OSF", "PEANUT", "POLY", "PSOFT", "PVERA",
    "RANDLORA", "ROAD", "SHIRA", "SUPERTUNING", "TINYLORA", "TRAINABLE_TOKENS", "UNILORA", "VBLORA", "VERA", "WAVEFT",
)  # fmt: skip
"""PEFT's types that update weights and read nothing but their own file. X-LoRA and Shadow fetch other models, prompt
tuning a tokenizer, with whatever options the configuration gives."""

NOT_MERGED = ("megatron_config", "layer_replication")
"""Fields that have PEFT import a module by name, or copy layers as often as they say."""


def check_mergeable(folder: Path, raw: Mapping[str, Any], file: TensorFile, base: Checkpoint) -> None:
    """Refuse, reading headers only, what PEFT must not be given: its types are not written for strangers' files.

    Raises `InputError` for a type that is not in `MERGEABLE`, a field of `NOT_MERGED`, patterns that take too long on
    the base's modules, and ranks beyond every dimension in ``file``, for which PEFT would make room.
    """
    config = folder / CONFIG
    if (kind := raw.get("peft_type")) not in MERGEABLE:
        raise InputError(f"{config}: peft_type {kind} is not merged: it is no update of weights; leave it out")
    for name in NOT_MERGED:
        if raw.get(name):
            raise InputError(f"{config}: {name} is set, with which no adapter is merged; leave it out")
    largest = max((size for shape in file.shapes.values() for size in shape), default=0)
    pattern = raw.get("rank_pattern")
    sizes = {name: (value, max(largest, 10**6)) for name, value in raw.items() if not re.search("seed|key", name)}
    if kind != "LOKR":  # beyond all dimensions its factor is whole
        ranks = {"r": raw.get("r"), **(pattern if isinstance(pattern, dict) else {})}
        sizes |= {name: (rank, largest) for name, rank in ranks.items()}
    for name, (size, most) in sizes.items():
        if isinstance(size, int | float) and not size <= most:
            raise InputError(
                f"{config}: {name} is {size}, and no tensor in {file.path.name} is larger than {largest}: the two "
                "files do not belong together"
            )
    check_patterns(raw, [name.removesuffix(".weight") for name in base.shapes], config)


def merge(adapter: Path, base: Path, out: Path, *, seed: int = 0) -> None:
    """Write the merged model to ``out`` (safetensors, config.json), for `tasks.geometry.adapters.checkpoint.changed`.

    Adapted layers are in float64, all others in float32, which holds a bfloat16 or float16 base exactly.

    ``adapter``: a PEFT directory with safetensors; ``base``: the model directory it was trained on, which is not
    changed; ``seed``: for PEFT's random draws while loading. Not a model for use: no tokenizer, plain generation
    settings. Memory: the base in float32, its adapted layers in float64; all of it on the CPU.

    ``pissa_niter_N`` starts from a RANDOMISED SVD of the base, drawn in training from a generator whose state is not
    saved. PEFT draws anew when it loads the adapter, so merged - base is off by the difference of the two draws (zero
    only where N iterations have converged). It cannot be recovered from such an adapter; convert it in training
    (``path_initial_model_for_weight_conversion``) and compare the plain LoRA. For PiSSA and OLoRA trained on a bfloat16
    base, training also rounded the remaining base to bfloat16, which is neither in the adapter nor here.

    Raises `InputError` in one line naming the adapter and what PEFT or transformers said, also where they would only
    warn: weights in the file that fit nowhere, or weights that the file lacks.
    """
    if not (adapter / WEIGHTS).is_file():  # PEFT would unpickle adapter_model.bin, or ask the Hub
        raise InputError(f"{adapter}: {WEIGHTS} is missing; give a directory that PEFT saved as safetensors")
    if not (base / "config.json").is_file():  # transformers would take it for a name on the Hub
        raise InputError(f"{adapter}: its base {base} is no model directory; give one that transformers saved")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters of them is checked below
            _merge(adapter, base, out, seed)
    except InputError:
        raise
    except Exception as error:  # whatever PEFT and transformers raise over a foreign adapter or base
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(f"{adapter}: PEFT cannot merge it into {base}: {said}") from error


def _merge(adapter: Path, base: Path, out: Path, seed: int) -> None:
    import torch
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer
    from transformers import AutoModelForCausalLM, GenerationConfig

    model = AutoModelForCausalLM.from_pretrained(
        str(base), dtype=torch.float32, attn_implementation="eager", trust_remote_code=False, use_safetensors=True,
        local_files_only=True,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wrapped = PeftModel.from_pretrained(model, str(adapter), torch_device="cpu")
        # from_pretrained only warns of missing weights and says nothing of unused ones; loading again tells both.
        result = wrapped.load_adapter(str(adapter), "default", torch_device="cpu")
    config = wrapped.peft_config["default"]
    if config.is_prompt_learning:
        raise InputError(f"{adapter}: {config.peft_type.value} learns a prompt and updates no weight; leave it out")
    for keys, what in ((result.missing_keys, "lacks weights"), (result.unexpected_keys, "has weights without a place")):
        if keys:
            raise InputError(
                f"{adapter}: it {what} in {base} ({len(keys)}, such as {keys[0]}); give the base that it was trained on"
            )
    _refuse_tied(wrapped, model, adapter)
    for layer in wrapped.modules():
        if isinstance(layer, BaseTunerLayer):
            layer.double()
    whole = wrapped.merge_and_unload(safe_merge=True)
    whole.generation_config = GenerationConfig()  # shipped sampling defaults can be invalid, and are then not saved
    whole.save_pretrained(str(out))


def _refuse_tied(wrapped: Any, model: Any, adapter: Path) -> None:
    """PEFT merges into the one tensor that embedding and output layer share; training updated only one of the two."""
    output, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if output is None or getattr(output, "weight", None) is not getattr(embedding, "weight", 0):
        return
    ends = {name: part for name, part in model.named_modules() if part in (output, embedding)}
    for name in wrapped.base_model.targeted_module_names:
        if name in ends or any(name == tied.removesuffix(".base_layer") for tied in ends):
            raise InputError(
                f"{adapter}: it adapts {name}, which the base ties to its other embedding, so the merged weight is not "
                "what was trained; only plain LoRA can be compared there"
            )
