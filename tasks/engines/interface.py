"""What asks a model for completions: one small interface, three engines behind it.

An engine takes any number of requests, each with a seed and, for a model with adapters, the adapter that answers it,
and hands completions back as they are finished, in any order. What was handed back is never asked for again: a caller
that keeps them (`tasks.engines.journal`) goes on after a kill where it stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol


def seed_of(seed: int, *names: str | int) -> int:
    """A seed of 63 bits for what ``names`` say, such as a problem and its n-th sample.

    It is a hash: two names share a seed with a chance of 2^-63 (of a million names, any two with 5e-8). It depends on
    nothing else: not on the order of the requests, nor on which others there are.
    """
    return int.from_bytes(hashlib.sha256(json.dumps([seed, *names]).encode()).digest()[:8], "big") >> 1


@dataclass(frozen=True)
class Request:
    """One completion to be made."""

    id: str
    """Unique among the requests of a stage, the same in every attempt."""
    text: str
    """The user's message: for engines that render the prompt themselves (an endpoint's chat template)."""
    prompt_ids: tuple[int, ...] | None
    """The rendered prompt's tokens: for engines that have the model's tokenizer; None where nobody here has it."""
    seed: int
    """Of this completion alone: it does not depend on which others are sampled beside it."""
    adapter: str | None = None
    """One of the engine's adapters; None asks the bare model."""


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn."""

    max_new_tokens: int
    temperature: float | None = None
    """None decodes greedily."""
    logprobs: bool = False
    """Whether behaviour log-probabilities are wanted (nats, at the sampling temperature; at 1 for greedy decoding)."""
    end_ids: tuple[int, ...] = ()
    """The tokens that end an answer (`tasks.models.turn`); none given: the model's own. An endpoint whose tokens nobody
    here knows goes by its own."""


@dataclass(frozen=True)
class Completion:
    """What a model said."""

    text: str
    """Without special tokens."""
    ids: tuple[int, ...] | None
    """Its tokens, an end token last where ``finish_reason`` is ``"stop"``; None where an endpoint keeps
    them to itself."""
    logprobs: tuple[float, ...] | None
    """One a token of ``ids``, at the sampling temperature; None where not asked for or not told."""
    finish_reason: Literal["stop", "length", "refused"]
    """``"length"``: cut at the largest number of new tokens; kept, and marked so. ``"refused"``: an endpoint will not
    answer this request (moderation, a prompt too long for it), and ``text`` is its reason."""
    reasoning: str | None = None
    """What an endpoint tells apart from the text as the model's thinking before it."""


Deliver = Callable[[Request, Completion], None]
"""Called once for each request, from the thread that called `Engine.complete`."""


class Engine(Protocol):
    """A model that can be asked. Use as a context manager: leaving it ends what it started."""

    def complete(self, requests: Sequence[Request], sampling: Sampling, deliver: Deliver) -> None:
        """Complete all ``requests``, calling ``deliver`` for each as soon as it is finished.

        Raises `tasks.core.errors.InputError` for what the user must mend (an endpoint that refuses the key, an
        adapter that the engine cannot serve), `tasks.core.errors.StageError` where the engine failed (its process
        died, an endpoint stayed away): what was delivered until then is whole.
        """

    def __enter__(self) -> Engine: ...

    def __exit__(self, *error: object) -> None: ...
