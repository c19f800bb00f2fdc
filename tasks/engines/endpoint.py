"""One HTTP conversation with an OpenAI-compatible endpoint: what is sent, retried, waited for, and refused."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tasks.core.errors import InputError, StageError
from tasks.core.secrets import keep

if TYPE_CHECKING:
    import httpx

FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
"""Seconds before the first retry, and at most before a later one; a server's own Retry-After goes before both."""
LONGEST_RETRY_AFTER = 600.0
_FIELDS = {401: "rollouts.key_env", 402: "rollouts.key_env", 403: "rollouts.key_env", 404: "rollouts.teacher"}
_OF_ONE = {400, 413, 422}
"""May be of one request alone (moderation, a prompt beyond the context) or of all (an unknown field)."""
_AGAIN = {408, 409, 425, 429}
CHECK = "check rollouts.endpoint, rollouts.extra and the sampling settings"
_NO_MONEY = "insufficient_quota"  # OpenAI says 429 to an empty account: waiting does not fill it


class Unusable(Exception):
    """An answer that is none (broken JSON, no choices, a lost connection): worth another try."""


class Refused(Exception):
    """The endpoint will not answer this request, whatever it does with others; the text says why."""


class Stopped(Exception):
    """Another request met what ends them all."""


@dataclass(frozen=True)
class Endpoint:
    """Where an endpoint is and how patiently it is asked. The key itself is never part of it."""

    url: str
    model: str
    key_env: str | None = "OPENAI_API_KEY"
    """Environment variable with the key; None sends none."""
    timeout: float = 600.0
    """Seconds without a byte from the server."""
    retries: int = 6
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Put into every request's body as it is."""


def read_key(key_env: str | None) -> str | None:
    """The key, from the environment. Raises `InputError` where the variable is not set or cannot be a header.

    A name of which there is no variable is not repeated: it may be the key itself.
    """
    if key_env is None:
        return None
    key = os.environ.get(key_env, "").strip()
    if not key:
        raise InputError(
            "rollouts.key_env: the environment variable that it names is not set; export the endpoint's key under "
            "that name (the setting is the name, not the key), or, for a server that asks for none, "
            "--set rollouts.key_env=null"
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise InputError(f"rollouts.key_env: the value of {key_env} has characters that no key has; export it again")
    keep(key)
    return key


class Conversation:
    """Thread-safe POSTs to one endpoint. Use as a context manager."""

    def __init__(self, endpoint: Endpoint, concurrency: int = 1) -> None:
        self._endpoint = endpoint
        self._concurrency = concurrency
        self._key = read_key(endpoint.key_env)
        self._client: httpx.Client | None = None
        self._quiet_until = 0.0  # monotonic: a 429 to one request holds back all
        self._stopped = threading.Event()

    def __enter__(self) -> Conversation:
        import httpx

        limits = httpx.Limits(max_connections=self._concurrency, max_keepalive_connections=self._concurrency)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        # Proxies of the environment lead out of here, not to a server on this machine.
        local = urlsplit(self._endpoint.url).hostname in ("localhost", "127.0.0.1", "::1")
        self._client = httpx.Client(headers=headers, limits=limits, trust_env=not local)
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
        if self._client is not None:
            self._client.close()

    def stop(self) -> None:
        """Have every request that waits give up (`Stopped`)."""
        self._stopped.set()

    def post(
        self, path: str, body: Mapping[str, Any], read: Any, *, retries: int | None = None, within: float | None = None
    ) -> Any:
        """``read(answer)`` of the endpoint's JSON answer to ``body`` (and the endpoint's ``extra``).

        An answer that ``read`` cannot use (it raises `Unusable`), a 408, 409, 425, 429 or 5xx and a lost connection are
        tried again, ``retries`` times and for ``within`` seconds at most, with exponentially longer pauses and jitter,
        or the server's Retry-After. Raises `Refused` for a 400, 413 or 422, `InputError` for every other status, both
        at once, and `StageError` after the last try.
        """
        tries = 1 + (self._endpoint.retries if retries is None else retries)
        deadline = None if within is None else time.monotonic() + within
        reason, wait = "", 0.0
        for attempt in range(tries):
            self._pause(wait)
            try:
                return read(self._once(path, body, deadline))
            except _Again as again:
                reason, wait = str(again), again.wait
            except Unusable as error:
                reason, wait = self.safe(str(error)), 0.0
            if wait and deadline is not None and time.monotonic() + wait > deadline:
                reason += f", and asks to wait {wait:.0f} s: start again then"
            wait = wait or min(FIRST_WAIT * 2**attempt, LONGEST_WAIT) * random.uniform(0.5, 1.0)
            if deadline is not None and time.monotonic() + wait > deadline:
                tries = attempt + 1
                break
        raise StageError(
            f"{self._endpoint.url} gave no usable answer in {tries} {'tries' if tries > 1 else 'try'}; last: {reason}; "
            "what was sampled is kept: run the same command again to go on"
        )

    def _once(self, path: str, body: Mapping[str, Any], deadline: float | None) -> Any:
        import httpx

        assert self._client is not None
        url = f"{self._endpoint.url.rstrip('/')}/{path}"
        patience = self._endpoint.timeout
        if deadline is not None:
            patience = min(patience, max(1.0, deadline - time.monotonic()))
        timeout = httpx.Timeout(patience, connect=min(30.0, patience), pool=None)
        sent = {**body, "model": self._endpoint.model, **self._endpoint.extra}
        try:
            response = self._client.post(url, json=sent, timeout=timeout)
        except httpx.TimeoutException:
            raise _Again(f"nothing came for {patience:g} s (rollouts.timeout)") from None
        except httpx.DecodingError as error:
            raise _Again(f"an answer that cannot be unpacked ({self.safe(str(error))})") from None
        except httpx.RequestError as error:
            raise _Again(f"the connection failed ({self.safe(str(error)) or type(error).__name__})") from None
        if response.status_code == 200:
            try:
                answer = response.json()
            except ValueError:
                raise Unusable("an answer that is no JSON") from None
            if isinstance(answer, dict) and answer.get("error") and not answer.get("choices"):
                raise Unusable(f"HTTP 200 with an error in it ({self._said(response)})")
            return answer
        self._refuse(response)
        wait = _retry_after(response.headers.get("Retry-After"))
        if wait and response.status_code == 429:
            self._quiet_until = max(self._quiet_until, time.monotonic() + wait)
        raise _Again(f"HTTP {response.status_code} ({self._said(response)})", wait)

    def _refuse(self, response: httpx.Response) -> None:
        """Raise for a status that trying again does not change: `Refused` or `InputError`."""
        status, said = response.status_code, self._said(response)
        if status in _OF_ONE:
            raise Refused(f"HTTP {status} ({said})")
        broke = status == 429 and _NO_MONEY in response.text
        if not broke and (status >= 500 or status in _AGAIN):
            return
        name = "rollouts.key_env" if broke else _FIELDS.get(status, "rollouts.endpoint")
        ways = {
            "rollouts.key_env": f"check the key in {self._endpoint.key_env or 'rollouts.key_env'} and its account",
            "rollouts.teacher": f"check rollouts.endpoint and the model's name, {self._endpoint.model!r}",
        }
        way_out = ways.get(name, CHECK)
        raise InputError(f"{name}: {self._endpoint.url} answered HTTP {status} ({said}); {way_out}")

    def _said(self, response: httpx.Response) -> str:
        """The server's own words, short, in one line, without the key."""
        text = response.text
        with suppress(ValueError, TypeError, KeyError, AttributeError):
            error = response.json()["error"]
            text = str(error["message"] if isinstance(error, dict) else error)
        return self.safe(" ".join(text.split()))[:200] or "no reason given"

    def safe(self, text: str) -> str:
        """``text`` as it can be written, without the key: an endpoint may say back what it was sent."""
        text = whole_characters(text)
        return text.replace(self._key, "***") if self._key else text

    def _pause(self, wait: float) -> None:
        """Sleep ``wait`` seconds, and as long as the endpoint asked everybody to be quiet."""
        until = max(time.monotonic() + wait, self._quiet_until)
        while (left := until - time.monotonic()) > 0:
            if self._stopped.wait(left):
                break
            until = max(until, self._quiet_until)
        if self._stopped.is_set():
            raise Stopped


class _Again(Exception):
    """A failure that passes: try again, after ``wait`` seconds where the server said how long."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def whole_characters(text: str) -> str:
    """``text`` as it can be written: a half of a surrogate pair, which JSON can spell, becomes U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _retry_after(value: str | None) -> float:
    """Seconds of a Retry-After header (a number or a date); 0 where there is none that can be read."""
    if value is None:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return 0.0
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER) if seconds == seconds else 0.0
