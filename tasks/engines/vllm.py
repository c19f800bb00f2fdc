"""The engine for GPUs: vLLM, in a process and an environment of its own, adapters side by side in one batch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.core.errors import InputError, StageError
from tasks.engines.interface import Completion, Deliver, Request, Sampling
from tasks.engines.vllm_adapters import check_adapters
from tasks.engines.vllm_installation import interpreter
from tasks.engines.vllm_process import VllmProcess

LOAD_SECONDS = 1800.0
"""Longest silence while the model is read, compiled and warmed up."""
HANG_SECONDS = 300.0
"""Longest silence of an engine at work; it says something every two seconds."""

ROUND = 64
"""The longest sequence is rounded up to a multiple of it."""

CPU_HEADS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""Sizes of an attention head that vLLM 0.30 computes on a CPU."""


class VllmEngine:
    """A model directory, and PEFT adapters by name, served by vLLM on this process's device.

    ``batch_size`` requests are decoded at once and each is delivered when it is finished, while the others go on.
    ``longest``: tokens of the longest prompt and its answer, which is what vLLM is told to make room for: a model's
    whole context may be beyond a GPU's memory. Default: the context, or ``max_length`` where that is given.
    ``precision`` auto is float32 on a CPU and bfloat16 on a GPU; ``memory_share`` is the part of a GPU's memory that
    vLLM takes for itself. A request's tokens come from its own seed; its logits may differ in their last bits with its
    company, as matrix products of other sizes round differently. Raises `InputError` on entry for a model, an adapter
    or an installation that cannot work.
    """

    def __init__(
        self,
        model_dir: Path,
        *,
        adapters: Mapping[str, Path] | None = None,
        batch_size: int = 256,
        precision: str = "auto",
        max_length: int | None = None,
        longest: int | None = None,
        memory_share: float = 0.85,
        patience: float = HANG_SECONDS,
    ) -> None:
        self._folder = Path(model_dir).absolute()
        self._adapters = {name: Path(folder).absolute() for name, folder in (adapters or {}).items()}
        self._batch_size = batch_size
        self._precision = precision
        self._max_length = max_length
        self._longest = longest
        self._memory_share = memory_share
        self._patience = patience
        self._process: VllmProcess | None = None
        self._tokenizer: Any = None

    def __enter__(self) -> VllmEngine:
        from transformers import AutoTokenizer

        from tasks.models.load import context_length, device

        interpreter()
        gpu = device() == "cuda"
        if not gpu:
            check_cpu(self._folder)
        context = context_length(self._folder, self._max_length)
        self._max_length = context if self._longest is None else room(self._longest, context)
        self._tokenizer = AutoTokenizer.from_pretrained(str(self._folder), trust_remote_code=False)
        settings = {
            "model": str(self._folder),
            "adapters": {name: str(folder) for name, folder in self._adapters.items()},
            "max_rank": check_adapters(self._folder, self._adapters) if self._adapters else None,
            "batch_size": self._batch_size,
            "precision": self._precision,
            "max_length": self._max_length,
            "memory_share": self._memory_share,
            "gpu": gpu,
        }
        self._process = VllmProcess(settings, patience=LOAD_SECONDS)
        try:
            self._process.receive()
        except BaseException:
            self.__exit__()
            raise
        self._process.patience = self._patience
        return self

    def __exit__(self, *error: object) -> None:
        if self._process is not None:
            self._process.end()
        self._process = self._tokenizer = None

    @property
    def pid(self) -> int | None:
        """The number of vLLM's process; None where there is none."""
        return self._process.pid if self._process is not None else None

    def complete(self, requests: Sequence[Request], sampling: Sampling, deliver: Deliver) -> None:
        """See `tasks.engines.interface.Engine`. After an error the engine is ended: open another one."""
        process = self._process
        if process is None:
            raise StageError("vLLM is not running: it was ended, or never entered")
        from tasks.models.turn import model_ends

        self._check(requests, sampling)
        ends = sampling.end_ids or tuple(end.id for end in model_ends(self._folder, self._tokenizer))
        run = {
            "max_new_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature or 0.0,
            "logprobs": sampling.logprobs,
            "end_ids": ends,
        }
        asked = [
            {"prompt_ids": request.prompt_ids, "seed": request.seed, "adapter": request.adapter} for request in requests
        ]
        try:
            process.send([*asked, {"run": run}])
            while "done" not in (message := process.receive()):
                if "ids" in message:
                    deliver(requests[message["place"]], self._completion(message, ends))
        except BaseException:
            self.__exit__()  # what is still under way would be taken for the answers of the next call
            raise

    def _completion(self, message: Mapping[str, Any], ends: Sequence[int]) -> Completion:
        from tasks.models.turn import answer_text

        logprobs = message["logprobs"]
        return Completion(
            text=answer_text(self._tokenizer, message["ids"], ends),
            ids=tuple(message["ids"]),
            logprobs=None if logprobs is None else tuple(logprobs),
            finish_reason=message["finish_reason"],
        )

    def _check(self, requests: Sequence[Request], sampling: Sampling) -> None:
        """vLLM would cut what does not fit without a word, and name no adapter that it does not know."""
        assert self._max_length is not None
        for request in requests:
            if not request.prompt_ids:
                raise InputError(f"request {request.id}: the vllm engine needs the prompt's tokens")
            if request.adapter is not None and request.adapter not in self._adapters:
                known = ", ".join(self._adapters) or "none"
                raise InputError(f"request {request.id}: no adapter {request.adapter!r} is loaded; there: {known}")
            if len(request.prompt_ids) + sampling.max_new_tokens > self._max_length:
                raise InputError(
                    f"request {request.id}: a prompt of {len(request.prompt_ids)} tokens and max_new_tokens "
                    f"{sampling.max_new_tokens} are beyond the {self._max_length} that the engine holds"
                )


def room(longest: int, context: int) -> int:
    """Tokens of a sequence that vLLM is to hold: ``longest``, rounded up to `ROUND`, at most ``context``.

    Raises `InputError` where ``longest`` is beyond the context.
    """
    if longest > context:
        raise InputError(
            f"engine vllm: the longest prompt and an answer take {longest} tokens, beyond the model's context of "
            f"{context}; lower max_new_tokens"
        )
    return min(context, -(-longest // ROUND) * ROUND)


def check_cpu(model_dir: Path, whose: str = "the model's") -> None:
    """Raise `InputError` where the model's attention heads have a size that vLLM cannot compute on a CPU."""
    config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    heads = config.get("num_attention_heads") or 1
    check_head(config.get("head_dim") or config.get("hidden_size", CPU_HEADS[0] * heads) // heads, whose)


def check_head(size: int, whose: str = "the model's") -> None:
    """The same for one head's size."""
    if size not in CPU_HEADS:
        raise InputError(
            f"engine vllm: {whose} attention heads have {size} dimensions, and on a CPU vLLM computes only "
            f"{', '.join(map(str, CPU_HEADS))}; take the transformers engine"
        )
