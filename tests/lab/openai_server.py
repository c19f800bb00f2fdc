"""A real HTTP server on loopback that speaks enough of the OpenAI protocol, and misbehaves where a test tells it to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.lab.web import Handler, listening

Answer = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Say:
    """One prepared answer in place of the usual one."""

    status: int = 200
    body: str = "{}"
    headers: tuple[tuple[str, str], ...] = ()
    hang: float = 0.0
    """Seconds before anything is sent."""
    cut: bool = False
    """Close the connection in the middle of the body."""


@dataclass
class Server:
    """What the server was asked, and what it is to say next (then, the usual answer)."""

    answer: Answer
    url: str = ""
    key: str | None = None
    """Requests with another bearer token get a 401."""
    script: list[Say] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    most_at_once: int = 0
    delay: float = 0.0
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            self.asked.append(body)
            self.paths.append(handler.path)
            self.times.append(time.monotonic())
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            said = self.script.pop(0) if self.script else None
        try:
            time.sleep(self.delay)
            if self.key is not None and handler.headers.get("Authorization") != f"Bearer {self.key}":
                said = Say(401, json.dumps({"error": {"message": f"bad {handler.headers.get('Authorization')}"}}))
            self._send(handler, said or Say(body=json.dumps(self.answer(body))))
        finally:
            with self._lock:
                self._now -= 1

    def _send(self, handler: BaseHTTPRequestHandler, said: Say) -> None:
        time.sleep(said.hang)
        content = said.body.encode()
        try:
            handler.send_response(said.status)
            for name, value in said.headers:
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(content)))
            handler.end_headers()
            handler.wfile.write(content[: len(content) // 2] if said.cut else content)
        except OSError:  # the client did not wait
            return
        finally:
            handler.close_connection = handler.close_connection or said.cut


@contextmanager
def serving(answer: Answer, **settings: Any) -> Iterator[Server]:
    """A server on a free port for the length of a ``with`` block."""
    state = Server(answer, **settings)

    class Asked(Handler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            state.handle(self)

    with listening(Asked) as address:
        state.url = f"{address}/v1"
        yield state


def chat(text: str, reason: str = "stop", **more: Any) -> dict[str, Any]:
    """An answer of /chat/completions."""
    return {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason, **more}]
    }


def echo(body: dict[str, Any]) -> dict[str, Any]:
    """Says the question again: the usual answer of these tests."""
    return chat(f"said {body['messages'][0]['content']}")
