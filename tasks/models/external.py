"""A base model that somebody else trained: a Hugging Face directory, a Hub id, or a GGUF file.

A directory is never copied into the store. What a GGUF file is dequantised to is an artifact of it
(`tasks.models.dequantise`).
"""

from __future__ import annotations

import json
import os
import shlex
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core import home
from tasks.core.digests import file_digest, manifest_digest
from tasks.core.errors import InputError
from tasks.core.results import EXTERNAL, TEMPLATE_DATE, ArtifactRef, Progress, no_progress
from tasks.core.small_files import expanded, not_weights, read_object
from tasks.models.gguf_file import find_gguf
from tasks.problems.overlap import instructed

if TYPE_CHECKING:
    from tasks.models.turn import Turn

FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
"""What is fetched from the Hub and what decides the digest: no pickles, no code."""


def locate(base: str, setting: str = "model.base") -> Path:
    """The model's folder: ``base`` itself if it is one, else the Hub's snapshot, downloaded when needed.

    Of a GGUF file it is what that was dequantised to, made when needed. Raises `InputError`, naming ``setting``, where
    it is none of these, or holds no configuration or no safetensors weights.
    """
    if (file := find_gguf(base, setting=setting)) is not None:
        from tasks.models.dequantise import dequantised

        return dequantised(file, setting)
    folder = expanded(base)
    if not os.path.isdir(folder):
        if folder.is_absolute() or base.startswith((".", "~")) or base.count("/") > 1:
            raise InputError(f"{setting}: no folder {base!r}")
        folder = _from_hub(base, setting)
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{setting}: {folder} has no config.json; expected a Hugging Face model directory, or a GGUF file (one in "
            "there is named in model.gguf_file)"
        )
    if (folder / "adapter_config.json").is_file():  # for which transformers would fetch the model that it names
        raise InputError(f"{setting}: {folder} has an adapter_config.json: an adapter; give the model that it is for")
    _check_weights(folder, setting)
    return folder.absolute()


WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def _check_weights(folder: Path, setting: str) -> None:
    """Refuse a folder of whose weights transformers would read a pickle, a file that is not beside its index, or what a
    clone without Git LFS has in their place."""
    if (folder / WEIGHTS).is_file():
        if said := not_weights(folder / WEIGHTS):
            raise InputError(f"{setting}: {said}")
        return
    if not (folder / INDEX).is_file():
        if any(folder.glob("*.bin")):
            raise InputError(
                f"{setting}: {folder} has no {WEIGHTS}; pickled weights are not loaded; {as_safetensors(folder)}"
            )
        raise InputError(f"{setting}: {folder} has no {WEIGHTS}; give a directory that transformers saved")
    try:
        shards = read_object(folder / INDEX).get("weight_map")
    except (OSError, ValueError) as error:
        raise InputError(f"{setting}: {folder / INDEX}: not valid JSON ({error}); copy it again") from error
    if not isinstance(shards, dict) or not shards:
        raise InputError(f"{setting}: {folder / INDEX} has no weight_map; copy it again")
    for shard in sorted({str(one) for one in shards.values()}):
        if Path(shard).name != shard or not (folder / shard).is_file():
            raise InputError(f"{setting}: {folder / INDEX}: shard {shard!r} is not a file beside it; copy both again")
        if said := not_weights(folder / shard):
            raise InputError(f"{setting}: {said}")


def as_safetensors(folder: Path) -> str:
    """How pickled weights become safetensors, by a command; transformers reads tensors of them and nothing else."""
    place = shlex.quote(str(folder))
    code = "import sys; from transformers import AutoModelForCausalLM as M; M.from_pretrained(sys.argv[1])"
    return f'convert them: python -c "{code}.save_pretrained(sys.argv[1])" {place}'


def _from_hub(base: str, setting: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(base, allow_patterns=list(FILES)))
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{setting}: {base!r} is neither a folder here nor to be had from the Hub: {reason}"
        ) from error


def reference(folder: Path, patterns: Sequence[str] = FILES) -> ArtifactRef:
    """An `ArtifactRef` to ``folder``: digest over its files of ``patterns`` (configuration, tokenizer, weights).

    Files are digested by `file_sha256`.
    """
    manifest: dict[str, Any] = {}
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        manifest[path.name] = {"size": path.stat().st_size, "sha256": file_sha256(path)}
    return ArtifactRef(uri=str(folder), sha256=manifest_digest(manifest), kind=f"{EXTERNAL}-model", run_id="")


def file_sha256(path: Path) -> str:
    """sha256 of a file, remembered by path, size and time of change, so that a large model is read once."""
    memory, stat = home.home() / "digests.json", path.stat()
    known: dict[str, str] = {}
    with suppress(FileNotFoundError, ValueError, TypeError):  # damaged: read the file again
        known = dict(json.loads(memory.read_text()))
    key = f"{path}:{stat.st_size}:{stat.st_mtime_ns}"
    if not known.get(key):
        known[key] = file_digest(path)
        with tempfile.NamedTemporaryFile("w", dir=memory.parent, prefix="digests-", delete=False) as partial:
            json.dump(known, partial)  # a name of its own: two studies may do this at once
        Path(partial.name).replace(memory)
    return known[key]


def check_base(
    *,
    folder: Path,
    prompt_template: str | None,
    pad_token: str | None,
    max_length: int | None,
    targets: tuple[str, ...],
    template_date: str = TEMPLATE_DATE,
    instruction: str | None = None,
    questions: Sequence[str] = (),
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Refuse, before any work, a base that the study cannot use. Needs transformers: for a worker process.

    Raises `InputError` naming the field: no chat template and no ``model.prompt_template``, no pad token, a length
    beyond the context, a LoRA target that the model does not have, ``questions`` (the shortest that there are) of which
    none fits the context. No weights are read: the modules are laid out on the meta device. The same for a folder whose
    tokenizer or configuration transformers cannot read. Returns ``max_length``, ``parameters``, and ``turn``, the
    `TurnRecord` of what it is asked and taught.
    """
    import torch

    from tasks.models.load import context_length
    from tasks.models.turn import QUESTION, open_turn

    try:
        turn = open_turn(folder, prompt_template, pad_token, template_date)
        asked = turn.tokenizer.decode(turn.prompt(instructed(QUESTION, instruction)))
        limit = context_length(folder, max_length)
        _check_length(turn, questions, instruction, limit)
        model = layout(folder)
    except InputError:
        raise
    except Exception as error:  # whatever transformers says of a damaged or unknown model
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if "trust_remote_code" in str(error):
            reason = "it takes code of its own, and code that comes with a model is not run"
        raise InputError(f"model.base: transformers cannot use {folder}: {reason}") from error
    linear = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    for target in targets:
        if target not in linear:
            raise InputError(f"lora.targets: the base has no module {target!r}; it has {', '.join(sorted(linear))}")
    record = replace(turn.record, prompt=asked)
    return {
        "max_length": limit,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "turn": record,
    }


def _check_length(turn: Turn, questions: Sequence[str], instruction: str | None, limit: int) -> None:
    """Refuse questions of which none leaves room for a token of an answer."""
    lengths = [len(turn.prompt(instructed(question, instruction))) for question in questions[:1]]
    if not lengths or lengths[0] < limit:
        return
    lengths += [len(turn.prompt(instructed(question, instruction))) for question in questions[1:]]
    if min(lengths) >= limit:
        raise InputError(
            f"rollouts.file: no prompt fits the base's context of {limit} tokens, the shortest has {min(lengths)}; "
            "use a base with a longer context, or a higher model.max_length"
        )


def check_vocabulary(
    *, teacher: Path, base: Path, pad_token: str | None, progress: Progress = no_progress
) -> dict[str, Any]:
    """Refuse a teacher whose distribution over tokens is not one over the base's. Needs transformers: for a worker.

    Raises `InputError` where tokenizers or the numbers of logits differ.
    """
    from transformers import AutoConfig

    from tasks.models.load import load_tokenizer
    from tasks.models.tokenizer import tokenizer_digest

    tokenizers = load_tokenizer(base, pad_token), load_tokenizer(teacher, pad_token)
    sizes = [
        AutoConfig.from_pretrained(str(folder), trust_remote_code=False).get_text_config().vocab_size
        for folder in (base, teacher)
    ]
    if tokenizer_digest(tokenizers[0]) != tokenizer_digest(tokenizers[1]):
        raise InputError(
            f"distillation.teacher: {teacher} has another tokenizer than the base; give one that shares it"
        )
    if sizes[0] != sizes[1]:
        raise InputError(
            f"distillation.teacher: {teacher} has {sizes[1]:,} logits at a token and the base {sizes[0]:,}; give one "
            "that has as many"
        )
    return {}


def layout(folder: Path) -> Any:
    """The model's modules without its weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, attn_implementation="eager", trust_remote_code=False)
