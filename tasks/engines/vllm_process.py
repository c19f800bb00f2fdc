"""The process that vLLM runs in: started, spoken to line by line, ended with everything that it started."""

from __future__ import annotations

import itertools
import json
import os
import queue
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tasks.core import home
from tasks.core.errors import InputError, StageError
from tasks.engines.vllm_installation import interpreter
from tasks.workers.worker import beat

WORKER = Path(__file__).with_name("vllm_worker.py")

ENVIRONMENT = {
    # One process: nothing that a kill of the worker could leave behind, and a deterministic order of work.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # binding would put the engines of two slots on one core
    "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB; CPU builds only
    # What it would say to other processes of its own, of which there are none, it says to this machine only.
    "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
}
"""What the worker gets unless the caller's environment says otherwise."""

_NOISE = re.compile(r"nanobind|^ ?- (leaked|\.\.\. skipped)|^See https?:|^\s*$|resource_tracker")
_TELLING = re.compile(r"(Error|Exception|Killed|Aborted|Fatal|out of memory)\b", re.IGNORECASE)
_counter = itertools.count()


class VllmProcess:
    """One worker. ``patience``: seconds without a line from it after which it counts as hung."""

    def __init__(self, settings: Mapping[str, Any], *, patience: float) -> None:
        self.patience = patience
        self.log = home.subfolder("logs") / f"vllm-{os.getpid()}-{next(_counter)}.log"
        environment = {**ENVIRONMENT, **os.environ}
        if not settings["gpu"]:
            # Compiling takes 25 s in every process, and a CPU's engine runs eagerly all the same.
            environment.setdefault("TORCHDYNAMO_DISABLE", "1")
        with self.log.open("wb") as log:
            # -I: not this folder's vllm.py, openai.py and transformers.py in place of the packages.
            self._process = subprocess.Popen(
                [str(interpreter()), "-I", str(WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        self._lines: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.send([settings])

    @property
    def pid(self) -> int:
        return self._process.pid

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(b"")

    def send(self, messages: Iterable[Mapping[str, Any]]) -> None:
        """Give it lines. Raises `StageError` where it is no more."""
        assert self._process.stdin is not None
        try:
            for message in messages:
                self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except (OSError, ValueError):  # a pipe that broke, or that we closed
            self.receive()  # it may have said why
            raise self._dead() from None

    def receive(self) -> dict[str, Any]:
        """Its next line. Raises what the worker says is wrong, or `StageError` where it died or hangs."""
        try:
            line = self._lines.get(timeout=self.patience)
        except queue.Empty:
            self.end()
            raise StageError(f"vLLM said nothing for {self.patience:.0f} s and was ended{self._last_words()}") from None
        if not line.endswith(b"\n"):
            self._lines.put(b"")  # the end stays the end
            raise self._dead()
        beat()
        message: dict[str, Any] = json.loads(line)
        if "input" in message:
            self.end()
            raise InputError(f"engine vllm: {message['input']}")
        if "failed" in message:
            self.end()
            raise StageError(f"vLLM failed: {message['failed']} (its output: {self.log})")
        return message

    def end(self) -> None:
        """Kill it and its children. Harmless where that is done already."""
        if self._process.returncode is None:
            # Before it is waited for: until then nobody else can have its number.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()

    def _dead(self) -> StageError:
        """Leaves nothing of it: it may have been killed alone, and then its children live on."""
        self._await_end(5.0)
        self.end()
        code = self._process.returncode
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return StageError(f"vLLM's process died ({how}){self._last_words()}")

    def _await_end(self, seconds: float) -> None:
        """Give it time to end by itself, without collecting it: until `end` nobody else may have its number."""
        deadline = time.monotonic() + seconds
        while self._process.returncode is None and time.monotonic() < deadline:
            if os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return
            time.sleep(0.02)

    def _last_words(self) -> str:
        return f"; its last words: {last_line(self.log)!r}; its output: {self.log}"


def last_line(log: Path) -> str:
    """The last line of a log that tells something: one that speaks of an error, else the last that is not noise."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if not _NOISE.search(line)][-200:]
    telling = [line for line in lines if _TELLING.search(line)]
    return (telling or lines or [""])[-1].strip()[:300]
