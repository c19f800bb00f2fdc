"""The engine of the synthetic task: transformers in this process, adapters side by side in one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.core.errors import InputError
from tasks.engines.interface import Completion, Deliver, Request, Sampling


class TransformersEngine:
    """A model directory, and PEFT adapters by name, on this process's device.

    With adapters the base is held once, in float32, and rows of several adapters share a batch; a bare model is in
    ``precision``. Requests are decoded in order of length, ``batch_size`` at a time, and each batch is delivered when
    it is done. A row's tokens come from its own seed: they do not depend on its batch.
    """

    def __init__(
        self,
        model_dir: Path,
        *,
        adapters: Mapping[str, Path] | None = None,
        batch_size: int = 64,
        precision: str = "auto",
    ) -> None:
        self._folder = model_dir
        self._adapters = dict(adapters or {})
        self._batch_size = batch_size
        self._precision = precision
        self._model: Any = None
        self._tokenizer: Any = None

    def __enter__(self) -> TransformersEngine:
        from transformers import AutoTokenizer

        from tasks.models.load import load_adapters, load_model

        self._tokenizer = AutoTokenizer.from_pretrained(str(self._folder), trust_remote_code=False)
        if self._adapters:
            self._model = load_adapters(self._folder, self._adapters)
        else:
            self._model = load_model(self._folder, self._precision)
        return self

    def __exit__(self, *error: object) -> None:
        self._model = self._tokenizer = None

    def complete(self, requests: Sequence[Request], sampling: Sampling, deliver: Deliver) -> None:
        """See `tasks.engines.interface.Engine`."""
        from tasks.models.generate import generate
        from tasks.models.load import BARE
        from tasks.models.turn import answer_text, model_ends

        for request in requests:
            if request.prompt_ids is None:
                raise InputError(f"request {request.id}: the transformers engine needs the prompt's tokens")
            if request.adapter is not None and request.adapter not in self._adapters:
                known = ", ".join(self._adapters) or "none"
                raise InputError(f"request {request.id}: no adapter {request.adapter!r} is loaded; there: {known}")
        tokenizer = self._tokenizer
        ends = sampling.end_ids or tuple(end.id for end in model_ends(self._folder, tokenizer))
        # Padding is masked, so any token serves a model that is only asked.
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0]
        ordered = sorted(requests, key=lambda request: (len(request.prompt_ids or ()), request.id))
        for start in range(0, len(ordered), self._batch_size):
            batch = ordered[start : start + self._batch_size]
            answers = generate(
                self._model,
                [request.prompt_ids or () for request in batch],
                end_ids=ends,
                pad_id=pad,
                max_new_tokens=sampling.max_new_tokens,
                batch_size=self._batch_size,
                temperature=sampling.temperature,
                seeds=[request.seed for request in batch],
                adapters=[request.adapter or BARE for request in batch] if self._adapters else None,
                greedy_logprobs=sampling.logprobs,
            )
            for request, answer in zip(batch, answers, strict=True):
                text = answer_text(tokenizer, answer.ids, ends)
                logprobs = answer.logprobs if sampling.logprobs else None
                deliver(request, Completion(text, answer.ids, logprobs, answer.finish_reason))
