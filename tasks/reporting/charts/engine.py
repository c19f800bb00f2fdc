"""The drawing engine (Vega-Lite in V8) in a process of its own, which starts while this one has other work.

Its start takes half a second, and vl-convert holds the interpreter's lock meanwhile: no thread would do.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import subprocess
import sys
import threading
from collections import deque
from concurrent.futures import Future

_CODE = """
import json, sys, vl_convert
version = sys.argv[1]
vl_convert.vegalite_to_svg('{"mark": "bar", "data": {"values": [{}]}}', vl_version=version)
for line in sys.stdin:
    print(json.dumps(vl_convert.vegalite_to_svg(line, vl_version=version)), flush=True)
"""


class Engine:
    """Draws specifications in the order in which they are asked for; ends with this process, however that ends."""

    def __init__(self, version: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _CODE, version],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        self._waiting: deque[Future[str]] = deque()
        self._lock = threading.Lock()
        threading.Thread(target=self._read, daemon=True).start()
        atexit.register(self.process.kill)

    def ask(self, specification: str) -> Future[str]:
        """The SVG of ``specification``, JSON on one line; an exception where the process has ended."""
        found: Future[str] = Future()
        with self._lock:
            self._waiting.append(found)
            assert self.process.stdin is not None
            try:
                self.process.stdin.write(specification + "\n")
                self.process.stdin.flush()
            except (OSError, ValueError) as error:  # gone, and closed for it
                self._waiting.remove(found)
                found.set_exception(error)
                with contextlib.suppress(OSError):
                    self.process.stdin.close()
        return found

    def _read(self) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(ValueError):  # half a line, of a process that was killed
            for line in self.process.stdout:
                self._waiting.popleft().set_result(json.loads(line))
        with self._lock:
            while self._waiting:
                self._waiting.popleft().set_exception(BrokenPipeError("the drawing process has ended"))
