"""What PEFT's ``adapter_config.json`` says about the update: its ranks, its scaling, and whether it is B A at all."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tasks.core.errors import InputError
from tasks.core.small_files import read_object

CONFIG = "adapter_config.json"

Number = TypeVar("Number", int, float)

PLAIN_INITS = (True, False, "gaussian", "eva", "orthogonal", "mica")
"""Initialisations that leave the base weights as they are, so that the merged weight less the base is scale * B A."""

BESIDE = ("modules_to_save", "lora_bias", "target_parameters", "trainable_token_indices")
"""Fields that train something beside scale * B A, which is still the update of the weights that have lora_A and B."""

NOT_PLAIN = (
    "use_dora",
    *BESIDE,
    "layer_replication",
    "use_qalora",
    "use_bdlora",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "velora_config",
    "monteclora_config",
)
"""Fields that must be empty: each makes the adapter's effect something else than scale * B A on linear weights."""


_REASONS = {
    "use_dora": "DoRA rescales the rows",
    "lora_bias": "lora_bias adds a bias",
    "target_parameters": "target_parameters changes parameters that are not linear weights",
    "trainable_token_indices": "trainable_token_indices trains rows of the embedding",
    "layer_replication": "layer_replication repeats layers",
    "use_qalora": "QALoRA pools the inputs",
    "use_bdlora": "BD-LoRA has block-diagonal factors",
    "alora_invocation_tokens": "aLoRA acts only after its invocation tokens",
}
_INITS = {
    "pissa": "PiSSA changes the base weights",
    "olora": "OLoRA changes the base weights",
    "loftq": "LoftQ changes the base weights",
}
_LOST = {
    "pissa_niter_": "a random draw",
    "corda": "covariances of its data",
    "lora_ga": "gradients of its data",
}
"""Initialisations whose first factors were taken out of the base weights, and what those factors were made from."""


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


_TYPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(
        ("use_dora", "use_rslora", "lora_bias", "use_qalora"),
        (lambda value: isinstance(value, bool), "true or false"),
    ),
    **dict.fromkeys(("modules_to_save", "target_parameters"), (_is_names, "a list of names")),
    **dict.fromkeys(
        ("target_modules", "exclude_modules", "layers_pattern"),
        (lambda value: isinstance(value, str) or _is_names(value), "a text or a list of names"),
    ),
    **dict.fromkeys(("peft_type", "bias", "base_model_name_or_path"), (lambda value: isinstance(value, str), "a text")),
    "init_lora_weights": (lambda value: isinstance(value, bool | str), "true, false or the name of an initialisation"),
}
"""Field -> whether a value fits it, and what does; every field may be null."""


@dataclass(frozen=True)
class LoraConfig:
    """The part of PEFT's LoraConfig that decides ``dW``."""

    r: int
    alpha: float
    rslora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]

    def rank(self, module: str) -> int:
        """Rank of one module."""
        return _lookup(self.rank_pattern, module, self.r)

    @property
    def room(self) -> int:
        """Rank that PEFT's ``add_weighted_adapter`` makes room for: also of a pattern that has no module above it."""
        return max([self.r, *self.rank_pattern.values()])

    def scale(self, module: str) -> float:
        """``alpha / r``, or ``alpha / sqrt(r)`` for rsLoRA (arXiv 2312.03732), of one module."""
        rank = self.rank(module)
        return _lookup(self.alpha_pattern, module, self.alpha) / (math.sqrt(rank) if self.rslora else rank)


def read_config(folder: Path, *, dora: bool = False) -> LoraConfig:
    """Read ``folder/adapter_config.json``; `InputError` naming the field where an update is not scale * B A.

    ``dora``: whether DoRA's rescaled rows beside it are taken.
    """
    raw, file = read_json(folder), folder / CONFIG
    check_known_start(raw, file)
    if reason := explain({**raw, "use_dora": False} if dora else raw, beside=False):
        raise InputError(
            f"{file}: its update is not scale * B A ({reason}); compare it with the base weights at hand: "
            "`colinear compare ... --base MODEL`"
        )
    return LoraConfig(
        r=_whole(raw.get("r"), "r", file),
        alpha=_positive(raw.get("lora_alpha"), "lora_alpha", file),
        rslora=bool(raw.get("use_rslora")),
        rank_pattern=_pattern(raw, "rank_pattern", file, _whole),
        alpha_pattern=_pattern(raw, "alpha_pattern", file, _positive),
    )


def check_known_start(config: Mapping[str, Any], file: Path) -> None:
    """Refuse an initialisation after which the update cannot be had back, with or without the base.

    Such an initialisation takes random or data-driven factors out of the base weights before training. The update is
    the trained factors less those, and those are not stored: `InputError` says what is lost and what to do.
    """
    init = config.get("init_lora_weights", True)
    lost = next((text for name, text in _LOST.items() if str(init).startswith(name)), None)
    if config.get("peft_type") == "LORA" and lost:
        raise InputError(
            f"{file}: init_lora_weights is {init!r}: it began from {lost}, which no file holds, so its update cannot "
            "be had back; leave this adapter out, or save it in training as plain LoRA "
            "(save_pretrained(..., path_initial_model_for_weight_conversion=INITIAL))"
        )


def explain(config: Mapping[str, Any], beside: bool = True) -> str | None:
    """Why the update of a raw ``adapter_config.json`` is not ``scale * B A``, in a short phrase; None where it is.

    ``beside``: whether something else that was trained with it counts (`BESIDE`, biases). None for plain LoRA with
    rsLoRA, ``rank_pattern`` and ``alpha_pattern``: those only set the rank and the scale.
    """
    kind = config.get("peft_type")
    if kind != "LORA":
        return f"peft_type is {kind}"
    reasons = [_reason(name, config[name]) for name in NOT_PLAIN if config.get(name) and (beside or name not in BESIDE)]
    if beside and config.get("bias", "none") != "none":
        reasons.append(f"biases are trained (bias {config['bias']!r})")
    init = config.get("init_lora_weights", True)
    if init not in PLAIN_INITS:
        known = next((text for name, text in _INITS.items() if str(init).startswith(name)), None)
        reasons.append(known or f"init_lora_weights is {init!r}")
    return "; ".join(reasons) or None


def is_dora(folder: Path) -> bool:
    """Whether a folder holds an adapter that rescales rows."""
    return (folder / CONFIG).is_file() and bool(read_json(folder).get("use_dora"))


def read_json(folder: Path) -> dict[str, Any]:
    """``folder/adapter_config.json`` as it is.

    Raises `InputError` where it is missing or no JSON object, or where a field that decides which kind of adapter it is
    has a value of another type than PEFT writes: taken for true or false, it would say something it does not.
    """
    file = folder / CONFIG
    if not file.is_file():
        raise InputError(f"{folder}: {CONFIG} is missing; give a directory that PEFT saved")
    try:
        raw = read_object(file)
    except (ValueError, OSError) as error:
        raise InputError(f"{file}: not valid JSON ({error})") from error
    _check_types(raw, file)
    return raw


def _check_types(raw: Mapping[str, Any], file: Path) -> None:
    for name, (fits, expected) in _TYPES.items():
        value = raw.get(name)
        if value is not None and not fits(value):
            raise InputError(f"{file}: {name} is {json.dumps(value)[:60]}; it must be {expected}")


def _lookup(pattern: Mapping[str, Number], module: str, default: Number) -> Number:
    """PEFT's rule (0.21): the first key, as a regular expression, that matches the whole name or its dotted tail.

    PEFT saves the file with sorted keys, so where keys overlap "first" is what PEFT itself finds when it loads the
    directory, not necessarily what it found in training.
    """
    return next((value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", module)), default)


def _reason(name: str, value: Any) -> str:
    if name == "modules_to_save":
        return f"modules_to_save holds whole weights: {', '.join(map(str, value))}"
    return _REASONS.get(name, f"{name} is set")


def _pattern(
    raw: dict[str, Any], name: str, file: Path, check: Callable[[Any, str, Path], Number]
) -> dict[str, Number]:
    pattern = raw.get(name) or {}
    if not isinstance(pattern, dict):
        raise InputError(f"{file}: {name} is not an object")
    return {key: check(value, f"{name}[{key!r}]", file) for key, value in pattern.items()}


def _whole(value: Any, name: str, file: Path) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{file}: {name} is {value!r}; it must be a whole number of at least 1")
    return value


def _positive(value: Any, name: str, file: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not (0 < value <= sys.float_info.max):
        raise InputError(f"{file}: {name} is {value!r}; it must be a positive number")
    return float(value)
