"""A reverse proxy before a real server, that is slow, fails, cuts connections, refuses, or is not there."""

from __future__ import annotations

import contextlib
import http.client
import random
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host"}
"""Headers that are of one connection, or that are written anew."""


class Proxy:
    """In front of ``target`` (``http://HOST:PORT``), at ``uri``. What it does can be changed while it runs.

    Of the requests that come, in seeded order: ``fail`` is the share that is answered with one of ``codes`` and not
    passed on, ``cut`` the share that is passed on and whose answer is then lost. ``delay`` are the seconds before each
    answer, at most. ``refuse(method, path)`` answers with a status of its own where it returns one. ``done`` counts.
    """

    def __init__(self, target: str, seed: int = 0) -> None:
        parts = urlsplit(target)
        self.host, self.port = str(parts.hostname), int(parts.port or 80)
        self.fail = self.cut = 0.0
        self.codes = [500, 503]
        self.delay = (0.0, 0.0)
        self.refuse: Callable[[str, str], int | None] = lambda method, path: None
        self.done: Counter[str] = Counter()
        self.random = random.Random(seed)
        self.lock = threading.Lock()
        self.open: set[socket.socket] = set()
        self.listening: ThreadingHTTPServer | None = None
        self.own_port = 0
        self.up()

    @property
    def uri(self) -> str:
        """What its clients are given."""
        return f"http://127.0.0.1:{self.own_port}"

    def up(self) -> None:
        """Be there (again), at the same port."""
        self.listening = _Listening(("127.0.0.1", self.own_port), type("Handler", (_Handler,), {"proxy": self}))
        self.own_port = self.listening.server_address[1]
        threading.Thread(target=self.listening.serve_forever, args=(0.05,), daemon=True).start()

    def down(self) -> None:
        """Be gone: every open connection is cut, new ones are refused."""
        if self.listening is None:
            return
        self.listening.shutdown()
        self.listening.server_close()
        self.listening = None
        with self.lock:
            for connection in self.open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def throw(self, share: float) -> bool:
        """Whether something that happens in this share of cases happens now."""
        with self.lock:
            return self.random.random() < share

    def wait(self) -> None:
        """The delay of one answer."""
        with self.lock:
            seconds = self.random.uniform(*self.delay)
        time.sleep(seconds)


class _Listening(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone, or that was cut off: that is what we are for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def setup(self) -> None:
        super().setup()
        with self.proxy.lock:
            self.proxy.open.add(self.connection)

    def finish(self) -> None:
        with self.proxy.lock:
            self.proxy.open.discard(self.connection)
        super().finish()

    def log_message(self, *arguments: Any) -> None:
        """Not on the terminal."""

    def _serve(self) -> None:
        proxy = self.proxy
        if self.headers.get("Upgrade", "").lower() == "websocket":
            self._tunnel()
            return
        body = self._body()
        proxy.done["requests"] += 1
        proxy.wait()
        status = proxy.refuse(self.command, self.path)
        if status is None and proxy.throw(proxy.fail):
            status = proxy.random.choice(proxy.codes)
        if status is not None:
            proxy.done[str(status)] += 1
            self._answer(status, [("Content-Type", "text/plain")], b"the proxy says no")
            return
        upstream = http.client.HTTPConnection(proxy.host, proxy.port, timeout=120)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
        try:
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            content = answer.read()
        except OSError:
            self._answer(502, [], b"")
            return
        finally:
            upstream.close()
        if proxy.throw(proxy.cut):
            proxy.done["cut"] += 1
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP]
        self._answer(answer.status, kept, content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _serve

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _tunnel(self) -> None:
        """Bytes to and fro, for Prefect's stream of events."""
        self.close_connection = True
        with socket.create_connection((self.proxy.host, self.proxy.port)) as upstream:
            lines = [
                f"{self.command} {self.path} HTTP/1.1",
                *(f"{name}: {value}" for name, value in self.headers.items()),
            ]
            upstream.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
            both = {self.connection: upstream, upstream: self.connection}
            while True:
                for ready in select.select(list(both), [], [])[0]:
                    content = ready.recv(65536)
                    if not content:
                        return
                    both[ready].sendall(content)


@contextmanager
def proxied(target: str, seed: int = 0) -> Iterator[Proxy]:
    """A proxy for the length of a ``with`` block."""
    proxy = Proxy(target, seed)
    try:
        yield proxy
    finally:
        proxy.down()


@contextmanager
def answering(content: bytes, status: int = 200, kind: str = "text/html") -> Iterator[str]:
    """The address of something that answers everything alike: a web page, a router's login, another service."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, *arguments: Any) -> None:
            """Not on the terminal."""

    server = _Listening(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def refusing() -> Iterator[str]:
    """An address whose port is taken and refuses."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@contextmanager
def silent() -> Iterator[str]:
    """An address that accepts and never answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(128)
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"
