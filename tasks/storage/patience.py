"""A server that may be slow, ill or away: what is asked again, for how long, and what a person is told of it.

*Away* is one that nobody hears of (refused, cut off, no answer in time) or whose proxy says so (408, 429, 502, 503,
504). It is asked again until $COLINEAR_SERVER_PATIENCE seconds after the first failure. *Ill* is one that answers 500:
that may be a moment's, but a full disk there stays full, so it is asked again for `ILL_SECONDS`. All else is an answer.
"""

from __future__ import annotations

import logging
import math
import os
import re
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass
from typing import TypeVar

from tasks.core.errors import InputError, StageError
from tasks.core.events import Event, emit, stopping
from tasks.core.secrets import without_password

VARIABLE = "COLINEAR_SERVER_PATIENCE"
PATIENCE = 3600.0
"""Seconds. A reboot, an upgrade or a failover takes minutes; after an hour somebody has to look, and a machine that
waits costs more than a second start, which computes nothing again. What waits holds no device."""

ILL_SECONDS = 60.0
TELL_SECONDS = 5.0
"""A failure that is over sooner is not told: a server that answers 503 now and then would fill the screen."""

PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0)
"""Between two tries; the last one goes on."""

AWAY_CODES = (408, 429, 502, 503, 504)
REASONS = (  # what is said of a failure, by what libraries write of it; the first that fits
    (
        r"Name or service not known|[Nn]ame resolution|No address associated|Failed to resolve|nodename nor servname",
        "no such host",
    ),
    (r"[Rr]efused|Failed to establish a new connection", "connection refused"),
    (r"[Tt]imed? ?out", "no answer in time"),
    (
        r"Connection (reset|aborted|broken)|RemoteDisconnected|IncompleteRead|ended prematurely|Broken pipe",
        "the connection was cut",
    ),
    (r"Max retries exceeded|Could not connect|Network is unreachable|No route to host", "no connection"),
)

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Trouble:
    """Why a call to a server failed, where asking again may help."""

    reason: str
    away: bool


def patience() -> float:
    """Seconds that a server may be away, from the environment. Raises `InputError`."""
    text = os.environ.get(VARIABLE) or str(PATIENCE)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise InputError(f"{VARIABLE}: expected seconds, 0 or more, got {text!r}")
    return seconds


def trouble_of(error: BaseException) -> Trouble | None:
    """What an exception of a client library says; None where the server has answered, or the trouble is ours."""
    text = str(error)
    found = re.search(r"too many (\d{3}) error responses", text)
    status = int(found[1]) if found else getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return Trouble(f"it answers {status}", status != 500) if status in (500, *AWAY_CODES) else None
    if getattr(error, "error_code", "") == "TEMPORARILY_UNAVAILABLE":  # MLflow on a database that is away
        return Trouble("its database is away", True)
    said = getattr(error, "json", None)  # an answer of MLflow's, with names in its words that anybody chose
    if isinstance(said, dict) and said.get("error_code") not in (None, "INTERNAL_ERROR"):
        return None
    if "not in a valid JSON format" in text:
        return Trouble("it answers something else than JSON", False)
    reason = next((reason for pattern, reason in REASONS if re.search(pattern, text)), None)
    if reason is None and isinstance(error, ConnectionError | TimeoutError):
        reason = "no connection"
    return Trouble(reason, True) if reason else None


def spell(seconds: float) -> str:
    """``'45 s'``, ``'12 min'``, ``'1.5 h'``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


class Aside:
    """Calls beside the caller's work, one at a time: one that comes while another is under way is left out."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    def start(self, call: Callable[[], None]) -> None:
        """Begin ``call()``, in the caller's context, unless one is under way."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=copy_context().run, args=(call,), daemon=True)
            self._thread.start()

    def wait(self, seconds: float) -> None:
        """Give the one that is under way this time to end."""
        if self._thread is not None:
            self._thread.join(seconds)


class Server:
    """One server, as all threads of this process see it: it answers, or it is away since a moment."""

    def __init__(self, name: str, uri: str) -> None:
        self.name = f"{name} at {without_password(uri)}"
        self.patience = patience()
        self._lock = threading.Lock()
        self._since: float | None = None
        self._told = False

    @property
    def away(self) -> bool:
        """Whether the last that was heard of it is that nothing is heard."""
        return self._since is not None

    def call(self, ask: Callable[[], Answer], again: Callable[[], Answer] | None = None) -> Answer:
        """``ask()``, again after a pause for as long as the server is away or ill.

        ``again`` is asked from the second time on: the first may have been heard though its answer was lost. Raises
        `StageError` where patience ends or the study is being stopped, and what ``ask`` raises for any other reason.
        """
        attempt, tries, ill_since = ask, 0, time.monotonic()
        while True:
            began = time.monotonic()
            try:
                answer = attempt()
            except Exception as error:
                trouble = trouble_of(error)
                if trouble is None:
                    raise
                since = self._failed(trouble, began) if trouble.away else ill_since
                left = since + (self.patience if trouble.away else ILL_SECONDS) - time.monotonic()
                if left <= 0 or stopping.is_set():
                    raise StageError(self._given_up(trouble, time.monotonic() - since)) from None
                stopping.wait(min(PAUSES[min(tries, len(PAUSES) - 1)], left))
                attempt, tries = again or ask, tries + 1
            else:
                self._answered()
                return answer

    def _failed(self, trouble: Trouble, began: float) -> float:
        """When it went away; told once, when it has been for a while."""
        with self._lock:
            if self._since is None:
                self._since = began
            tell = not self._told and time.monotonic() - self._since > TELL_SECONDS
            self._told |= tell
            since = self._since
        if tell:
            emit(Event("away", self.name, note=f"{trouble.reason}; tried for {spell(self.patience)}"))
            logging.getLogger("colinear").warning("%s does not answer (%s); waiting", self.name, trouble.reason)
        return since

    def _answered(self) -> None:
        if self._since is None:  # read without the lock: nearly every call comes here
            return
        with self._lock:
            since, told = self._since, self._told
            self._since, self._told = None, False
        if told and since is not None:
            seconds = time.monotonic() - since
            emit(Event("back", self.name, seconds=seconds))
            logging.getLogger("colinear").warning("%s answers again after %s", self.name, spell(seconds))

    def _given_up(self, trouble: Trouble, seconds: float) -> str:
        if not trouble.away:
            return f"{self.name}: {trouble.reason} for {spell(seconds)}; its log says why"
        return f"{self.name} does not answer for {spell(seconds)} ({trouble.reason})"
