"""A GGUF file as a Hugging Face directory: dequantised once to bfloat16, kept as an artifact of the file's content.

transformers reads the tensors, the configuration and the tokenizer. What it would read otherwise than llama.cpp is put
right (`_digits_first`) or refused: a way of splitting texts that it does not know, and tensors that it leaves out.
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from tasks.core import home
from tasks.core.digests import StageKey
from tasks.core.errors import InputError, StageError
from tasks.core.events import Event, emit
from tasks.core.results import EXTERNAL, ArtifactRef, Progress, no_progress
from tasks.core.stages import DEQUANTISE
from tasks.models.external import WEIGHTS, file_sha256, layout
from tasks.models.gguf_file import INSTEAD, Gguf, read_gguf
from tasks.storage.store import open_store
from tasks.workers.devices import run_unpinned

KIND = f"{EXTERNAL}-gguf"
"""Of an `ArtifactRef` to a GGUF file: ``uri`` is its path, ``sha256`` that of its bytes."""

ALONE = "model.gguf"

GPT2_SPLIT = ("gpt-2", "phi-2", "mpt", "olmo", "jais")
DIGITS_FIRST = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone")
"""``tokenizer.ggml.pre`` of byte-level tokenizers that split as GPT-2's, or as GPT-2's after every digit was set apart:
llama.cpp's lists. transformers 5.23 splits all of them as GPT-2's."""


def gguf_reference(file: Path) -> ArtifactRef:
    """A reference to the file itself, outside the store."""
    return ArtifactRef(uri=str(file), sha256=file_sha256(file), kind=KIND, run_id="")


def dequantise_key(sha256: str) -> StageKey:
    """What decides the directory: the file's bytes and who reads them."""
    readers = {name: metadata.version(name) for name in ("gguf", "transformers")}
    return DEQUANTISE.key({"gguf": sha256}, readers | {"weights": "bfloat16"})


def described(file: Path) -> Path:
    """A directory with all of a GGUF file's model but perhaps its weights; what was dequantised already where it is.

    Raises `InputError` as `describe` does.
    """
    read_gguf(file)
    return _described(file, file_sha256(file), home.home())


@lru_cache(maxsize=8)
def _described(file: Path, sha256: str, state: Path) -> Path:
    store = open_store()
    if (entry := store.find(dequantise_key(sha256))) is not None:
        return store.local(entry.ref)
    folder = Path(tempfile.mkdtemp(prefix="gguf-", dir=home.subfolder("staging")))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    run_unpinned(describe, {"file": file, "out": folder}, log=home.subfolder("logs") / "gguf.log")
    return folder


def dequantised(file: Path, setting: str = "model.base") -> Path:
    """The directory of a GGUF file, found in the store or made: for what runs outside Prefect.

    Raises `InputError`, naming ``setting``, as `read_gguf` and `dequantise` do.
    """
    read_gguf(file, setting)
    key, store, name = dequantise_key(file_sha256(file)), open_store(), f"dequantise {file.name}"

    def tell(done: int, total: int, note: str = "") -> None:
        emit(Event("progress", name, done=done, total=total, note=note) if total else Event("start", name))

    def compute(staging: Path) -> Any:
        log = home.subfolder("logs") / f"dequantise-{key.digest[:12]}.log"
        arguments = {"file": file, "sha256": key.inputs["gguf"], "out": staging, "setting": setting}
        return run_unpinned(dequantise, arguments, log=log, progress=tell)

    with store.locked(key):
        entry = store.find(key) or store.recover(key)
        if entry is None:
            entry = store.produce(key, store.open_run(name, key=key), compute)
            emit(Event("done", name, seconds=entry.seconds))
    return store.local(entry.ref)


def dequantise(
    *, file: Path, out: Path, sha256: str, setting: str = "model.base", progress: Progress = no_progress
) -> dict[str, Any]:
    """Write the whole model to ``out``: what `describe` writes, and bfloat16 safetensors.

    Takes two bytes a parameter of disk and, for a while, five of memory. Runs in a worker process. Returns how it was
    quantised, for the report. Raises `InputError` as `describe` does, and `StageError` where the file is no longer the
    one with that ``sha256``.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM
    from transformers.utils.quantization_config import GgufConfig

    found, config = _describe(file, out, setting)
    with _alone(file) as folder:
        model = AutoModelForCausalLM.from_pretrained(
            folder, config=config, gguf_file=ALONE, dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True), trust_remote_code=False, use_safetensors=True,
        )  # fmt: skip
    # save_pretrained refuses a model "quantized with gguf", though nothing of it is quantised any more.
    tied = set(model.all_tied_weights_keys) if model.config.tie_word_embeddings else set()
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name not in tied}
    save_file(state, out / WEIGHTS, metadata={"format": "pt"})
    if file_sha256(file) != sha256:
        raise StageError(f"{file}: it was changed while it was read; start again")
    progress(len(found.tensors), len(found.tensors), "tensors")
    return {
        "quantisation": found.quantisation,
        "stored_as": found.shares,
        "file_sha256": sha256,
        "parameters": sum(tensor.numel() for tensor in state.values()),
        "gguf": metadata.version("gguf"),
    }


def describe(*, file: Path, out: Path, setting: str = "model.base", progress: Progress = no_progress) -> None:
    """Write all of the model's directory but its weights to ``out``: enough to ask it a question, and to check it.

    Raises `InputError`, naming ``setting``: what `read_gguf` refuses, an architecture or tokenizer that transformers
    cannot read, and a file of which it would leave tensors out. Runs in a worker process.
    """
    _describe(file, out, setting)


def _describe(file: Path, out: Path, setting: str) -> tuple[Gguf, Any]:
    """`describe`; returns the file's header and transformers' configuration."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, GenerationConfig

    found = read_gguf(file, setting)
    try:
        with _alone(file) as folder:
            config = AutoConfig.from_pretrained(folder, gguf_file=ALONE, trust_remote_code=False)
            kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].__name__
            tokenizer = _tokenizer(found, folder, setting)
    except InputError:
        raise
    except Exception as error:  # whatever transformers says of an architecture that it does not know, or no decoder
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"{setting}: transformers cannot read {file}, a GGUF of architecture {found.architecture!r} ({reason}); "
            f"{INSTEAD}"
        ) from error
    values = config.to_dict() | {"architectures": [kind], "dtype": "bfloat16"}
    _write(out / "config.json", values, "_name_or_path", "_model_name_or_path", "quantization_config")
    generation = GenerationConfig.from_model_config(config)
    if ends := _ends(found):
        generation.eos_token_id = ends
    generation.save_pretrained(out)
    tokenizer.model_max_length = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
    tokenizer.save_pretrained(out)
    about = out / "tokenizer_config.json"
    _write(about, json.loads(about.read_text()), "is_local", "local_files_only")  # they are of this machine, now
    parameters = sum(parameter.numel() for parameter in layout(out).parameters())
    if parameters != found.entries.total():
        scaling = [name for name in found.tensors if name.startswith("rope_f")]
        named = f" ({', '.join(scaling)})" if scaling else ""
        raise InputError(
            f"{setting}: {file} holds {found.entries.total():,} numbers{named}, and the model that transformers makes "
            f"of it {parameters:,}: it would not be the same model; {INSTEAD}"
        )
    return found, config


@contextmanager
def _alone(file: Path) -> Iterator[str]:
    """A folder with nothing in it but the file, as `ALONE`: transformers would also read what lies beside it."""
    with tempfile.TemporaryDirectory(prefix="gguf-") as folder:
        (Path(folder) / ALONE).symlink_to(file.absolute())
        yield folder


def _write(file: Path, values: dict[str, Any], *without: str) -> None:
    kept = {name: value for name, value in values.items() if name not in without}
    file.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")


def _ends(found: Gguf) -> list[int]:
    """Every token that the file says ends an answer; its order is the file's."""
    keys = (f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom"))
    return list(dict.fromkeys(found.metadata[key] for key in keys if key in found.metadata))


def _tokenizer(found: Gguf, folder: str, setting: str) -> Any:
    from transformers import PreTrainedTokenizerFast
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    kind, split = (found.metadata.get(f"tokenizer.ggml.{name}") for name in ("model", "pre"))
    if kind == "gpt2" and split not in (*GGUF_PRE_TOKENIZER_SPLITS, *GPT2_SPLIT, *DIGITS_FIRST):
        raise InputError(
            f"{setting}: {found.file} splits texts by the rule {split!r} (tokenizer.ggml.pre), which transformers does "
            f"not know: its tokens would be others; {INSTEAD}"
        )
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, gguf_file=ALONE)
    if kind == "gpt2" and split in DIGITS_FIRST:
        _digits_first(tokenizer)
    return tokenizer


def _digits_first(tokenizer: Any) -> None:
    """Set digits apart before GPT-2's rule, which joins them, and parts the line breaks before them."""
    from tokenizers import pre_tokenizers

    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
