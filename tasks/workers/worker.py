"""What runs in a worker process, and how it is told that one hangs. `tasks.workers.devices` starts them.

A worker lives as long as it is heard of: a message to its driver (progress, `beat`) or a line in its log. One of which
nothing is heard for `hang_seconds` is asked where every thread of it stands (`faulthandler` writes that to its log),
and ended.
"""

from __future__ import annotations

import faulthandler
import multiprocessing.connection
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tasks.core.errors import InputError, StageError
from tasks.core.events import listening
from tasks.core.home import full_disk
from tasks.core.secrets import redact
from tasks.workers import cpu

HANG_SECONDS = 1800.0
"""The longest silence that is not taken for a hang; ``$COLINEAR_HANG_SECONDS`` overrides it, 0 waits for ever."""

LOOK_SECONDS = 1.0
BEAT_SECONDS = 0.5
DUMP_SECONDS = 3.0
DUMP_SIGNAL = signal.SIGUSR2
EXPENDABLE = 500
"""A worker's oom_score_adj: where memory runs out, Linux ends a worker, of which the study tells and which it tries
again, and neither the command nor a server."""


@dataclass(frozen=True)
class Slot:
    """One device that one process may use, and the CPU threads that come with it."""

    kind: Literal["cpu", "gpu"]
    index: str
    threads: int
    memory: float = 0.0
    """Bytes that the process may take of the machine's memory; 0: not said."""


class Hung(StageError):
    """A worker process of which nothing was heard for too long."""


def hang_seconds() -> float:
    """How long a worker may be silent. Raises `InputError`."""
    text = os.environ.get("COLINEAR_HANG_SECONDS") or str(HANG_SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise InputError(f"COLINEAR_HANG_SECONDS: expected a number of seconds, 0 for no limit, got {text!r}")
    return seconds or float("inf")


class Silence:
    """How long nothing was heard of a stage's workers.

    Only time in which this process itself ran is counted: a study that is stopped for a while (Ctrl-Z, a machine that
    sleeps) is not taken for one that hangs.
    """

    def __init__(self, log: Path) -> None:
        self.log, self.most, self.seconds = log, hang_seconds(), 0.0
        self._size = _size(log)
        self.look = min(LOOK_SECONDS, self.most / 4)

    def over(self, waited: float, heard: bool) -> bool:
        """After each wait of at most ``look`` seconds: whether the silence has lasted too long."""
        size = _size(self.log)
        if heard or size != self._size:
            self.seconds, self._size = 0.0, size
        else:
            self.seconds += min(waited, self.look)
        return self.seconds > self.most

    def complaint(self, workers: Iterable[Any], host: str) -> Hung:
        """Have the workers write to their log where they stand; what to raise."""
        for worker in workers:
            with suppress(ProcessLookupError), self.log.open("a") as log:
                log.write(f"\nno sign of life for {self.seconds:.0f} s: where process {worker.pid} stands\n")
                log.flush()
                os.kill(worker.pid, DUMP_SIGNAL)
                _await_quiet(self.log)
        return Hung(
            f"the worker process hung: no sign of life for {self.seconds:.0f} s, so it was ended; where it stood is in "
            f"{host}{self.log}; if it was only slow, set COLINEAR_HANG_SECONDS higher (0: no limit)"
        )


def _size(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


def _await_quiet(log: Path) -> None:
    """Until a dump is written: it begins at once, and then nothing more comes."""
    deadline, before, size = time.monotonic() + DUMP_SECONDS, _size(log), -1
    while time.monotonic() < deadline and not before < size == _size(log):
        size = _size(log)
        time.sleep(0.1)


_share = 0.0


def memory_left() -> float:
    """Bytes that this process may still take: its share of the machine's memory less what it holds, else what is free.

    Several workers share a machine (or the control group that they run in); each was told its part when it started.
    """
    free = cpu.free_memory()
    return min(max(0.0, _share - held_memory(os.getpid())), free) if _share else free


def held_memory(pid: int) -> float:
    """Bytes of memory that a process holds now, files that it shares with others not counted; 0 where it is gone."""
    try:
        _, resident, shared = Path(f"/proc/{pid}/statm").read_text().split()[:3]
    except OSError:
        return 0.0
    return float((int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE"))


def peak_memory() -> int:
    """The most bytes of memory that this process has held since it began."""
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(highest) * (1 if sys.platform == "darwin" else 1024)


_send: Callable[..., None] | None = None
_beaten = 0.0


def beat() -> None:
    """A sign of life from within a computation that has no progress to report for long. Cheap; call it often."""
    global _beaten
    if _send is not None and time.monotonic() - _beaten > BEAT_SECONDS:
        _beaten = time.monotonic()
        _send("beat")


def work(
    connection: multiprocessing.connection.Connection,
    function: Callable[..., Any],
    kwargs: dict[str, Any],
    slot: Slot,
    log: str,
) -> None:
    """The child: see one device, write to the log, answer once. Ends when the driver's end of the pipe closes."""
    global _send, _share
    _share = slot.memory
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the driver, which decides
    threading.Thread(target=_end_with_driver, args=(connection,), daemon=True).start()
    with open(log, "a", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.enable(file=2)  # a crash in native code
    faulthandler.register(DUMP_SIGNAL, file=2)  # a hang, also one that holds the interpreter's lock
    score = Path("/proc/self/oom_score_adj")
    with suppress(OSError):  # not Linux, or not allowed
        if int(score.read_text()) < EXPENDABLE:
            score.write_text(str(EXPENDABLE))
    os.environ["CUDA_VISIBLE_DEVICES"] = slot.index if slot.kind == "gpu" else ""
    lock = threading.Lock()

    def send(*message: Any) -> None:
        with lock:
            connection.send(message)

    _send = send
    try:
        import torch

        torch.set_num_threads(slot.threads)
        if slot.kind == "gpu" and not torch.cuda.is_available():
            raise StageError(f"GPU {slot.index} is there but torch cannot use it")  # never a CPU run in disguise
        with listening(lambda event: send("event", event)):
            result = function(**kwargs, progress=lambda done, total, note="": send("progress", done, total, note))
        send("peak", peak_memory())
        send("result", result)
    except InputError as error:
        send("input", str(error))
    except BaseException as error:
        with suppress(OSError):  # the log may be on the disk that is full
            sys.stderr.write(redact(traceback.format_exc()))
            sys.stderr.flush()
        send("error", f"{type(error).__name__}: {error}{full_disk(_paths(kwargs))}")


def _paths(kwargs: Mapping[str, Any]) -> list[Path]:
    given = (value if isinstance(value, list) else [value] for value in kwargs.values())
    return [path for values in given for path in values if isinstance(path, Path)]


def _end_with_driver(connection: multiprocessing.connection.Connection) -> None:
    """The driver never sends: when reading ends, it is gone, and so is the use of this process."""
    try:
        connection.recv()
    except (EOFError, OSError):
        os._exit(1)
