"""Batched decoding with any causal language model, greedy or sampled, reproducible row by row.

Built on transformers' own ``generate`` with a plain generation config: a base model's shipped sampling defaults
(temperature, top-p, repetition penalty) never apply. A row is sampled by inverting the cumulative distribution at
uniform numbers drawn from that row's own seed, so its tokens do not depend on the batch it is decoded in (up to float
rounding of the logits).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tasks.core.errors import InputError
from tasks.core.results import Progress, no_progress
from tasks.workers.worker import beat

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Generated:
    """One completion. ``ids`` end with an end token when ``finish_reason`` is ``"stop"``."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...] | None
    """Log-probability (nats) of each token at the sampling temperature; of greedy decoding at 1, where asked for."""
    finish_reason: Literal["stop", "length"]


Ended = Callable[[int, Generated], None]
"""``ended(place, answer)``: told of each answer when it is there."""


def nobody(place: int, answer: Generated) -> None:
    """The default `Ended`: nobody is told."""


def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    end_ids: Sequence[int],
    pad_id: int,
    max_new_tokens: int,
    batch_size: int,
    temperature: float | None = None,
    seeds: Sequence[int] | None = None,
    adapters: Sequence[str] | None = None,
    greedy_logprobs: bool = False,
    progress: Progress = no_progress,
    ended: Ended = nobody,
) -> list[Generated]:
    """Completions of ``prompts`` (token ids), in their order, each ended by the first of ``end_ids``.

    ``temperature`` None decodes greedily; otherwise ``seeds`` gives one non-negative integer a prompt. ``adapters``:
    for a model of `tasks.models.load.load_adapters`, the name of each prompt's adapter; rows of several adapters share
    a batch. ``greedy_logprobs`` has greedy decoding report log-probabilities too. Prompts are decoded in order of
    length, ``batch_size`` at a time; ``progress`` counts prompts, and ``ended`` is told each one's place and answer as
    soon as it is there. Raises `InputError` for empty prompts, a temperature that is not positive, or seeds that do not
    match the prompts.
    """
    import torch

    from tasks.models.decode import can_decode, decode

    _check(prompts, temperature, seeds)
    was_training = model.training
    model.eval()
    if can_decode(model):
        try:
            return decode(
                model, prompts, end_ids=end_ids, max_new_tokens=max_new_tokens, batch_size=batch_size,
                temperature=temperature, seeds=seeds, adapters=adapters, logprobs=greedy_logprobs, progress=progress,
                ended=ended,
            )  # fmt: skip
        finally:
            model.train(was_training)
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    done: dict[int, Generated] = {}
    try:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            draws = None
            if temperature is not None and seeds is not None:
                draws = _draws([seeds[i] for i in batch], max_new_tokens)
            with torch.inference_mode():
                rows = _decode(
                    model,
                    [prompts[i] for i in batch],
                    draws,
                    temperature,
                    end_ids,
                    pad_id,
                    max_new_tokens,
                    mixed([adapters[i] for i in batch] if adapters is not None else None),
                    greedy_logprobs,
                )
            done.update(zip(batch, rows, strict=True))
            for place in batch:
                ended(place, done[place])
            progress(len(done), len(order), "")
    finally:
        model.train(was_training)
    return [done[i] for i in range(len(prompts))]


def mixed(adapters: list[str] | None) -> dict[str, list[str]]:
    """The argument by which PEFT gives each row of a batch its own adapter; nothing for a model without adapters."""
    return {} if adapters is None else {"adapter_names": adapters}


def _check(prompts: Sequence[Sequence[int]], temperature: float | None, seeds: Sequence[int] | None) -> None:
    if any(len(prompt) == 0 for prompt in prompts):
        raise InputError("prompts: an empty prompt cannot be continued; the template must add at least one token")
    if temperature is None:
        return
    if temperature <= 0:
        raise InputError(f"temperature: must be positive, got {temperature}; None decodes greedily")
    if seeds is None or len(seeds) != len(prompts):
        raise InputError(f"seeds: sampling needs one seed for each of the {len(prompts)} prompts")


def _draws(seeds: Sequence[int], tokens: int) -> np.ndarray:
    """(B, tokens) uniforms in [0, 1): row b from ``seeds[b]`` alone."""
    return np.stack([np.random.default_rng(seed).random(tokens) for seed in seeds])


def _decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    draws_BT: np.ndarray | None,
    temperature: float | None,
    end_ids: Sequence[int],
    pad_id: int,
    max_new_tokens: int,
    mixture: dict[str, list[str]],
    greedy_logprobs: bool = False,
) -> list[Generated]:
    import torch
    from transformers import LogitsProcessorList

    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), pad_id)
    mask = torch.zeros((len(prompts), width), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(list(prompt))
        mask[row, width - len(prompt) :] = 1
    sampler: InverseSampler | GreedyScorer | None = GreedyScorer() if greedy_logprobs else None
    if draws_BT is not None and temperature is not None:
        sampler = InverseSampler(torch.from_numpy(draws_BT).to(model.device), temperature, width)
    output = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        generation_config=_plain_config(end_ids, pad_id, max_new_tokens),
        logits_processor=LogitsProcessorList([alive, *([sampler] if sampler else [])]),
        **mixture,
    )
    logprobs_BT = sampler.logprobs() if sampler else None
    return [
        _trim(row, None if logprobs_BT is None else logprobs_BT[i], end_ids)
        for i, row in enumerate(output[:, width:].tolist())
    ]


def alive(input_ids: Tensor, scores: Tensor) -> Tensor:
    """A logits processor that changes nothing: a batch of long answers is silent for long, and every step says so."""
    beat()
    return scores


def _trim(row: list[int], logprobs: list[float] | None, end_ids: Sequence[int]) -> Generated:
    """Cut after the first end token; what follows in the batch is padding."""
    length = next((place for place, token in enumerate(row, start=1) if token in end_ids), None)
    return Generated(
        ids=tuple(row[:length]),
        logprobs=None if logprobs is None else tuple(logprobs[:length]),
        finish_reason="length" if length is None else "stop",
    )


def _plain_config(end_ids: Sequence[int], pad_id: int, max_new_tokens: int) -> Any:
    """Every field that could reshape the distribution is set: what is left None is filled in from the model's own."""
    from transformers import GenerationConfig

    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        eos_token_id=list(end_ids),
        pad_token_id=pad_id,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        min_length=0,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        encoder_repetition_penalty=1.0,
        return_dict_in_generate=False,
    )


class InverseSampler:
    """A logits processor that leaves one token possible: the one its row's next uniform number selects.

    Used with greedy search, which then picks it. ``uniforms`` (B, T) in [0, 1); the generation step is read from the
    sequence length, ``prompt_tokens`` being that of the padded prompts.
    """

    def __init__(self, uniforms: Tensor, temperature: float, prompt_tokens: int) -> None:
        self._uniforms = uniforms
        self._temperature = temperature
        self._prompt_tokens = prompt_tokens
        self._logprobs: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        import torch

        step = input_ids.shape[1] - self._prompt_tokens
        logprobs_BV = torch.log_softmax(scores.double() / self._temperature, dim=-1)
        cdf_BV = logprobs_BV.exp().cumsum(-1)
        # Scaled by the last entry so that rounding of the sum can never leave the draw beyond it.
        draw_B1 = self._uniforms[:, step : step + 1] * cdf_BV[:, -1:]
        token_B1 = torch.searchsorted(cdf_BV, draw_B1, right=True).clamp_(max=scores.shape[-1] - 1)
        self._logprobs.append(logprobs_BV.gather(-1, token_B1).squeeze(-1))
        return torch.full_like(scores, float("-inf")).scatter_(-1, token_B1, 0.0)

    def logprobs(self) -> list[list[float]]:
        """(B, T) log-probabilities of the chosen tokens, one a step taken."""
        return _by_row(self._logprobs)


class GreedyScorer:
    """A logits processor that changes nothing and notes the log-probability of the token that greedy search takes."""

    def __init__(self) -> None:
        self._logprobs: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        import torch

        self._logprobs.append(torch.log_softmax(scores.double(), dim=-1).amax(-1))
        return scores

    def logprobs(self) -> list[list[float]]:
        """(B, T) log-probabilities of the likeliest tokens, one a step taken."""
        return _by_row(self._logprobs)


def _by_row(steps: list[Tensor]) -> list[list[float]]:
    """T tensors (B,) -> B lists of T."""
    import torch

    rows: list[list[float]] = torch.stack(steps, dim=1).tolist()
    return rows
