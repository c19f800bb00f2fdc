"""Any OpenAI-compatible endpoint: a hosted teacher, or `vllm serve` on a machine of one's own.

By default each request is a chat of one user message, rendered by the server. Where the model's tokenizer is known here
(``tokens``), prompts go to ``/completions`` as token ids, the tokens that end an answer with them, and the completion's
ids are asked for, as vLLM's server takes and tells them. Top-p is set to 1; a server's other defaults (a top-k, say)
are its own: see ``extra``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from itertools import islice
from typing import Any

from tasks.core.errors import InputError, StageError
from tasks.engines.endpoint import CHECK, Conversation, Endpoint, Refused, Stopped, Unusable, whole_characters
from tasks.engines.interface import Completion, Deliver, Request, Sampling
from tasks.workers.worker import LOOK_SECONDS, beat

CUT = ("length", "max_tokens", "model_length", "content_filter")
"""Finish reasons of a completion that its model did not end itself."""
ENDED = ("stop", "eos", "eos_token", "stop_sequence", "end_turn")
PROBE = "What is 1 + 1?"
PROBE_SECONDS = 60.0
"""A probe's patience, whatever Retry-After says: nobody has been told yet that anything began."""
_REASONING = ("reasoning_content", "reasoning")
"""Where servers put what a model thought before its answer: DeepSeek and vLLM; OpenRouter and vLLM's later versions."""


class OpenAIEngine:
    """An endpoint that is asked ``concurrency`` requests at a time.

    Log-probabilities are kept only at temperature 1 and for greedy decoding: whether a server tells those of other
    temperatures before or after dividing by them is not said by the protocol.
    """

    def __init__(self, endpoint: Endpoint, *, concurrency: int = 16, tokens: bool = False) -> None:
        self._conversation = Conversation(endpoint, concurrency)
        self._concurrency = concurrency
        self._tokens = tokens

    def __enter__(self) -> OpenAIEngine:
        self._conversation.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._conversation.__exit__(*error)

    def probe(self) -> None:
        """One request for one token: a wrong key, URL or model name is an `InputError` before anything is paid for.

        So is an endpoint that does not answer within `PROBE_SECONDS`.
        """
        prompt = (0,) if self._tokens else None
        try:
            self._ask(Request("probe", PROBE, prompt, 0), Sampling(1), retries=2, within=PROBE_SECONDS)
        except Refused as error:
            raise InputError(f"rollouts.endpoint: it answered a plain question with {error}; {CHECK}") from None
        except StageError as error:
            reason = str(error).split("; what was sampled")[0]
            raise InputError(f"rollouts.endpoint: {reason}; is it running?") from None

    def complete(self, requests: Sequence[Request], sampling: Sampling, deliver: Deliver) -> None:
        """See `tasks.engines.interface.Engine`. What is under way when something fails is still delivered.

        A request that the endpoint refuses is delivered as such (``finish_reason`` "refused"): see `probe` for finding
        what it would refuse of every request.
        """
        for request in requests:
            if request.adapter is not None:
                raise InputError("adapters: an endpoint serves the models it has; name one in rollouts.teacher")
            if self._tokens and request.prompt_ids is None:
                raise InputError(f"request {request.id}: /completions needs the prompt's tokens")
        failure: BaseException | None = None
        with ThreadPoolExecutor(self._concurrency, thread_name_prefix="endpoint") as pool:
            left = iter(requests)
            running = self._start(pool, islice(left, self._concurrency), sampling)
            try:
                while running:
                    done, _ = wait(running, timeout=LOOK_SECONDS, return_when=FIRST_COMPLETED)
                    beat()  # each request has a time-out and a number of tries of its own
                    for future in done:
                        request = running.pop(future)
                        error = future.exception()
                        if error is None:
                            deliver(request, future.result())
                        elif isinstance(error, Refused):
                            deliver(request, Completion(str(error), None, None, "refused"))
                        elif not isinstance(error, Stopped):
                            failure = failure or error
                            self._conversation.stop()
                    if failure is None:
                        running |= self._start(pool, islice(left, len(done)), sampling)
            except BaseException:  # Ctrl-C, or a journal on a full disk: nobody waits for a retry any more
                self._conversation.stop()
                raise
        if failure is not None:
            raise failure

    def _start(
        self, pool: ThreadPoolExecutor, requests: Iterator[Request], sampling: Sampling
    ) -> dict[Future[Completion], Request]:
        return {pool.submit(self._ask, request, sampling): request for request in requests}

    def _ask(
        self, request: Request, sampling: Sampling, retries: int | None = None, within: float | None = None
    ) -> Completion:
        body: dict[str, Any] = {
            "max_tokens": sampling.max_new_tokens,
            "temperature": 0.0 if sampling.temperature is None else sampling.temperature,
            "top_p": 1.0,
            "seed": request.seed,
        }
        wanted = sampling.logprobs and sampling.temperature in (None, 1.0)
        if self._tokens:
            body |= {"prompt": list(request.prompt_ids or ()), "return_token_ids": True}
            body |= {"stop_token_ids": list(sampling.end_ids)} if sampling.end_ids else {}
            body |= {"logprobs": 0} if wanted else {}
            path = "completions"
        else:
            body |= {"messages": [{"role": "user", "content": request.text}]}
            body |= {"logprobs": True} if wanted else {}
            path = "chat/completions"

        def read(answer: Any) -> Completion:
            found, safe = read_completion(answer, logprobs=wanted), self._conversation.safe
            return replace(found, text=safe(found.text), reasoning=found.reasoning and safe(found.reasoning))

        found: Completion = self._conversation.post(path, body, read, retries=retries, within=within)
        return found


def read_completion(answer: Any, *, logprobs: bool) -> Completion:
    """The one choice in an answer of ``/chat/completions`` or ``/completions``. Raises `Unusable`.

    Thinking that is told apart from the text is kept apart. ``ids`` only where the server tells them (vLLM's
    ``token_ids``); log-probabilities only where there is one a token.
    """
    try:
        choice = answer["choices"][0]
        message = choice.get("message")
        text = choice["text"] if message is None else message["content"]
        thought = next((message[name] for name in _REASONING if message.get(name)), None) if message else None
        reason = choice["finish_reason"]
    except (TypeError, KeyError, IndexError, AttributeError):
        raise Unusable("an answer without a choice in it") from None
    if text is None and reason in CUT:  # a reasoning model that was cut before it began to answer
        text = ""
    if not isinstance(text, str):
        raise Unusable("a choice without text")
    if reason not in (*CUT, *ENDED):
        raise Unusable(f"finish reason {str(reason)[:40]!r}")
    ids = choice.get("token_ids")
    told = _logprobs(choice.get("logprobs")) if logprobs else None
    if ids is not None and (not isinstance(ids, list) or not all(type(one) is int for one in ids)):
        raise Unusable("token ids that are no integers")
    if ids is not None and told is not None and len(told) != len(ids):
        told = None
    return Completion(
        text=whole_characters(text),
        ids=None if ids is None else tuple(ids),
        logprobs=told,
        finish_reason="length" if reason in CUT else "stop",
        reasoning=whole_characters(thought) if isinstance(thought, str) else None,
    )


def _logprobs(told: Any) -> tuple[float, ...] | None:
    """Chat: ``{"content": [{"logprob": ..}, ..]}``; completions: ``{"token_logprobs": [..]}``."""
    if not isinstance(told, dict):
        return None
    try:
        values = told["token_logprobs"] if "token_logprobs" in told else [one["logprob"] for one in told["content"]]
        found = tuple(float(value) for value in values)
    except (TypeError, KeyError, ValueError):
        return None
    return found if all(map(math.isfinite, found)) else None
