"""Decoding on a CPU in bfloat16: as many answers at once as are fast, and where one ends the next begins.

A step's time on a CPU is mostly the reading of the weights, which all answers share; transformers' ``generate`` copies
every key and value in every step, computes answers that have ended until the last of its batch has, and pads. Here keys
and values stay where they are, rows that have ended leave, and new prompts come in their places. Imports torch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from tasks.core.results import Progress
from tasks.models.attention import Kept, packed, row_of, why_padded
from tasks.models.generate import Ended, Generated, mixed
from tasks.models.load import computing, core
from tasks.workers.worker import beat, memory_left

PREFILL = 2048
"""Most tokens of prompts in one pass."""
REFILL = 8
"""New prompts come in when one place in so many is free: a pass over few prompts is slow."""
BLOCK = 16
"""Rows of logits in float32 at once."""
SHARE = 0.5
"""Of the memory that is left, what keys and values may take."""


def can_decode(model: Any) -> bool:
    """Whether ``model`` is one that this decodes: bfloat16 weights on a CPU, plain causal attention."""
    inner = core(model)
    if not isinstance(inner, PreTrainedModel):
        return False
    return inner.device.type == "cpu" and inner.dtype is torch.bfloat16 and why_padded(inner) is None


@dataclass
class _Answer:
    """One under way."""

    place: int
    """Of its prompt."""
    adapter: str | None
    draws: np.ndarray | None
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    end_ids: Sequence[int],
    max_new_tokens: int,
    batch_size: int,
    temperature: float | None,
    seeds: Sequence[int] | None,
    adapters: Sequence[str] | None,
    logprobs: bool,
    progress: Progress,
    ended: Ended,
) -> list[Generated]:
    """As `tasks.models.generate.generate`, whose arguments are these.

    At most ``batch_size`` answers are under way, fewer where their keys and values would take more than half of the
    memory that is left.
    """
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    waiting = deque(
        _Answer(
            place,
            None if adapters is None else adapters[place],
            None
            if temperature is None or seeds is None
            else np.random.default_rng(seeds[place]).random(max_new_tokens),
        )
        for place in order
    )
    longest = max((len(prompt) for prompt in prompts), default=0) + max_new_tokens
    rows = min(batch_size, len(prompts), max(1, int(SHARE * memory_left() / (longest * kept_bytes(model)))))
    kept, running = Kept(rows, longest), list[_Answer]()
    done: dict[int, Generated] = {}
    chooser = _Chooser(temperature, logprobs)
    with torch.inference_mode(), computing(model), packed(core(model)):
        while waiting or running:
            beat()
            free = rows - len(running)
            if waiting and (free >= max(1, rows // REFILL) or not running):
                new = [waiting.popleft() for _ in range(min(free, len(waiting)))]
                _begin(model, kept, prompts, running, new, chooser)
            else:
                _step(model, kept, running, chooser)
            for row in range(len(running) - 1, -1, -1):
                if finished := _finished(running[row], end_ids, max_new_tokens):
                    done[running[row].place] = finished
                    ended(running[row].place, finished)
                    last = running.pop()
                    if row < len(running):
                        running[row] = last
                        kept.move(len(running), row)
            progress(len(done), len(prompts), "")
    return [done[place] for place in range(len(prompts))]


def kept_bytes(model: Any) -> int:
    """Bytes of keys and values that one token leaves."""
    config = core(model).config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width * 2)


def _begin(
    model: Any, kept: Kept, prompts: Sequence[Sequence[int]], running: list[_Answer], new: list[_Answer],
    chooser: _Chooser,
) -> None:  # fmt: skip
    """Read the prompts of ``new``, so many tokens at a time and those of one adapter together; choose a first token."""
    new.sort(key=lambda answer: answer.adapter or "")  # stable
    while new:
        some: list[_Answer] = []
        tokens = 0
        while new and new[0].adapter == (some or new)[0].adapter:
            tokens += len(prompts[new[0].place])
            if some and tokens > PREFILL:
                break
            some.append(new.pop(0))
        sequences = [list(prompts[answer.place]) for answer in some]
        kept.places = list(range(len(running), len(running) + len(some)))
        ends = torch.tensor([len(one) for one in sequences]).cumsum(0)
        names = None if some[0].adapter is None else [some[0].adapter]
        logits_NV = model(**row_of(sequences, kept=kept, logits_to_keep=ends - 1), **mixed(names)).logits[0]
        kept.tokens[kept.places] = torch.tensor([len(one) for one in sequences])
        running += some
        chooser.choose(logits_NV, some)
        beat()


def _step(model: Any, kept: Kept, running: list[_Answer], chooser: _Chooser) -> None:
    """One more token for each."""
    rows = len(running)
    kept.newest(rows, core(model).dtype)
    names = None if running[0].adapter is None else [answer.adapter or "" for answer in running]
    logits_BV = model(
        input_ids=torch.tensor([[answer.ids[-1]] for answer in running]),
        position_ids=kept.tokens[:rows, None].clone(),
        use_cache=False,
        kept=kept,
        **mixed(names),
    ).logits[:, -1]
    kept.tokens[:rows] += 1
    chooser.choose(logits_BV, running)


def _finished(answer: _Answer, end_ids: Sequence[int], most: int) -> Generated | None:
    """Its completion, where it has ended."""
    ended = answer.ids[-1] in end_ids
    if not ended and len(answer.ids) < most:
        return None
    logprobs = tuple(answer.logprobs) if answer.logprobs else None
    return Generated(tuple(answer.ids), logprobs, "stop" if ended else "length")


class _Chooser:
    """Takes the likeliest token, or the one that a row's next uniform number selects in the cumulative distribution."""

    def __init__(self, temperature: float | None, logprobs: bool) -> None:
        self.temperature, self.logprobs = temperature, logprobs

    def choose(self, logits_BV: torch.Tensor, answers: Sequence[_Answer]) -> None:
        """Add a token to each answer, and its log-probability where they are wanted; a few rows at a time."""
        for begin in range(0, len(answers), BLOCK):
            some = answers[begin : begin + BLOCK]
            z_NV = logits_BV[begin : begin + BLOCK].float()
            token_N, logprob_N = self._greedy(z_NV) if self.temperature is None else self._drawn(z_NV, some)
            for answer, token in zip(some, token_N.tolist(), strict=True):
                answer.ids.append(token)
            if logprob_N is not None:
                for answer, value in zip(some, logprob_N.tolist(), strict=True):
                    answer.logprobs.append(value)

    def _greedy(self, z_NV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        logprob_N = z_NV.double().log_softmax(-1).amax(-1) if self.logprobs else None
        return z_NV.argmax(-1), logprob_N

    def _drawn(self, z_NV: torch.Tensor, answers: Sequence[_Answer]) -> tuple[torch.Tensor, torch.Tensor]:
        """As `tasks.models.generate.InverseSampler`."""
        draws = [answer.draws[len(answer.ids)] for answer in answers if answer.draws is not None]
        logprobs_NV = torch.log_softmax(z_NV.double() / (self.temperature or 1.0), dim=-1)
        cdf_NV = logprobs_NV.exp().cumsum(-1)
        draw_N1 = torch.tensor(draws, dtype=torch.float64)[:, None] * cdf_NV[:, -1:]
        token_N1 = torch.searchsorted(cdf_NV, draw_N1, right=True).clamp_(max=z_NV.shape[-1] - 1)
        return token_N1[:, 0], logprobs_NV.gather(-1, token_N1)[:, 0]
