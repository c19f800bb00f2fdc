"""Device slots, and running a function in a fresh process pinned to one of them.

A slot is one GPU, or on a machine without GPUs one CPU core (``$COLINEAR_SLOTS`` overrides the number). A slot is held
through a lock file of this machine, which the kernel frees when the holder dies: no GPU is ever in two hands, also
between two studies. The process is forked from a server that has the heavy imports loaded, sees one device only, and
ends when its driver does.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tasks.core import home
from tasks.core.cores import cores
from tasks.core.errors import InputError, StageError
from tasks.core.events import Event, damaged, emit, held
from tasks.core.events import stopping as _stopping
from tasks.core.results import Progress, no_progress
from tasks.workers import cpu
from tasks.workers.worker import Silence, Slot, hang_seconds, held_memory, work

DEV = Path("/dev")
POLL_SECONDS = 0.05
TURN_SECONDS = 1.0
EXIT_SECONDS = 5.0
LOST = 255
"""What multiprocessing takes for the exit code of a worker that the fork server can no longer tell it."""

STOP_SECONDS = 20.0
"""What a worker that handles SIGTERM may take to write down how far it is; the others it ends at once."""
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_MMAP_THRESHOLD_": str(2**25)}
"""A worker keeps up to 1 GiB of what it frees, until it ends. By default glibc's malloc gives large freed tensors back
to the system, which then makes and zeroes the pages of the next one anew: at the default study's size the system's
share of CPU time was 13 % in training steps (a quarter in the first ones) and 6 to 13 % in decoding, now below 1 %.
32 MiB is the most that every glibc accepts as the size from which an allocation is the system's own."""

QUIET_TRACKER = {"PYTHONWARNINGS": "ignore::UserWarning:multiprocessing.resource_tracker"}
"""What a worker that is killed had registered, multiprocessing frees, and says so on the user's terminal."""


class Stopped(StageError):
    """The study is being stopped: workers are ended and no new one begins."""


class WorkerDied(StageError):
    """The worker process was killed from outside (out of memory, a lost device): trying again can heal it."""


class OutOfMemory(WorkerDied):
    """The system killed the worker process because memory ran out: tried again it must hold less."""


_queue: deque[threading.Event] = deque()
_living: set[Any] = set()
_host = ""
"""Stands before a log's path in messages that another machine will show."""


def stop() -> None:
    """End every worker process and refuse new ones: for Ctrl-C and SIGTERM. `allow` lifts it.

    Those that handle SIGTERM (a training writes a checkpoint) have `STOP_SECONDS`; another Ctrl-C kills them too.
    """
    _stopping.set()
    for waiting in list(_queue):
        waiting.set()
    workers = list(_living)
    try:
        for worker in workers:
            worker.terminate()
        _wait_for_ends({worker.sentinel for worker in workers}, STOP_SECONDS)
    except KeyboardInterrupt:
        return
    finally:
        for worker in workers:
            worker.kill()


def _wait_for_ends(sentinels: set[int], seconds: float) -> None:
    """By their sentinels, which do not take the exit codes from those that wait for them."""
    until = time.monotonic() + seconds
    while sentinels and (left := until - time.monotonic()) > 0:
        sentinels -= set(multiprocessing.connection.wait(list(sentinels), left))


def allow() -> None:
    """A new study begins in this process."""
    _stopping.clear()


def _check_stopping() -> None:
    if _stopping.is_set():
        raise Stopped("stopped before it was done")


@lru_cache(maxsize=1)
def slots() -> tuple[Slot, ...]:
    """The slots of this machine: one a visible GPU, else one a core."""
    gpus = _visible_gpus()
    if gpus:
        return tuple(Slot("gpu", gpu, max(1, cores() // len(gpus))) for gpu in gpus)
    text = os.environ.get("COLINEAR_SLOTS") or str(cores())
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"COLINEAR_SLOTS: expected a whole number of at least 1, got {text!r}")
    count = int(text)
    return tuple(Slot("cpu", str(index), max(1, cores() // count)) for index in range(count))


def _visible_gpus() -> list[str]:
    """Read without importing torch, which would be slow and could initialise CUDA in the driver.

    As CUDA does, a list ends before its first "-1"; spaces and repetitions are dropped, because a slot's name is its
    lock's, and one GPU must have one name.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        # CUDA numbers what it finds from 0, whatever the device files are called (a container may hold nvidia3 only).
        return [str(index) for index, _ in enumerate(DEV.glob("nvidia[0-9]*"))]
    listed = (gpu.strip() for gpu in visible.split(","))
    return list(dict.fromkeys(gpu for gpu in takewhile(lambda gpu: gpu != "-1", listed) if gpu))


def use_assigned(gpus: Sequence[str]) -> None:
    """In a process of a Ray node, before each task: the GPUs that Ray has assigned to it are the only slots there are.

    None are for a task that needs none. Nor on a node without GPUs that was told to count some (``ray start
    --num-gpus``), where the numbers name no device: there the slots are the cores, as they are without Ray.
    """
    global _host
    _host = f"{socket.gethostname()}:"
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus) if any(DEV.glob("nvidia[0-9]*")) else ""
    slots.cache_clear()


def describe_machine() -> str:
    """``'2 CPU cores, 24 GiB, no GPU'``: the kind of machine, for tables of measurements."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpus = len(_visible_gpus())
    return f"{cores()} CPU cores, {memory:.0f} GiB, {f'{gpus} GPU' if gpus else 'no GPU'}"


def memory_share() -> float:
    """Bytes of memory that one worker may take: what is free or held by workers here, divided by the slots."""
    held = sum(held_memory(worker.pid) for worker in list(_living) if worker.pid)
    return (cpu.free_memory() + held) / len(slots())


@contextmanager
def take(count: int = 1) -> Iterator[list[Slot]]:
    """Hold ``count`` slots, waiting as long as it takes; within a process, first come, first served.

    Only one taker of several slots collects at a time (it holds a gate), so two of them cannot wait for each other.
    """
    folder = home.machine_folder()
    available = slots()
    count = min(count, len(available))
    gate = FileLock(folder / "gate.lock", thread_local=False)
    with ExitStack() as held:
        queued = held.enter_context(ExitStack())
        queued.enter_context(_turn())
        while count > 1 and not _acquired(gate):
            time.sleep(POLL_SECONDS)
        try:
            taken: list[Slot] = []
            while len(taken) < count:
                taken += _free(folder, [slot for slot in available if slot not in taken], count - len(taken), held)
                if len(taken) < count:
                    time.sleep(POLL_SECONDS)
        finally:
            gate.release()  # the slots are in hand: others may collect theirs while this one works
            queued.close()
        yield taken


@contextmanager
def _turn() -> Iterator[None]:
    """Wait until every earlier taker of this process has its slots: what is submitted first runs first.

    Only the first looks for slots, again and again; the others sleep until it is their turn.
    """
    ticket = threading.Event()
    _queue.append(ticket)
    try:
        while _queue[0] is not ticket:
            _check_stopping()
            ticket.wait(TURN_SECONDS)
            ticket.clear()  # `stop` sets it too
        yield
    finally:
        _queue.remove(ticket)
        for following in list(_queue)[:1]:
            following.set()


def _free(folder: Path, wanted: list[Slot], count: int, held: ExitStack) -> list[Slot]:
    """Up to ``count`` of the ``wanted`` slots that nobody holds, now held."""
    taken: list[Slot] = []
    for slot in wanted:
        lock = FileLock(folder / f"{slot.kind}{slot.index}.lock", thread_local=False)
        if len(taken) < count and _acquired(lock):
            held.callback(lock.release)
            taken.append(slot)
    return taken


def _acquired(lock: FileLock) -> bool:
    """Try a lock once. Raises `Stopped` where the study is being stopped while it waits."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _check_stopping()
        return False
    return True


@lru_cache(maxsize=1)
def _context() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "tasks.workers.preload"])
    return context


def warm_up_if_new() -> None:
    """`warm_up`, where the state folder has no store yet: with one there may be nothing to compute."""
    if not (home.home() / "mlflow.db").exists():
        warm_up()


def warm_up() -> None:
    """Start the fork server now, so that its imports overlap with the start of the servers."""
    from multiprocessing import forkserver

    home.quiet_environment()
    hang_seconds()  # a bad one is refused before work begins
    # OpenMP reads its thread count at load; workers of GPU slots raise it again with torch.set_num_threads.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, str(slots()[0].threads))
    for name, value in {**KEEP_MEMORY, **QUIET_TRACKER}.items():
        os.environ.setdefault(name, value)
    _context()
    _short_sockets()
    forkserver.ensure_running()


_choosing = threading.Lock()


def _short_sockets() -> None:
    """multiprocessing chooses the folder of its sockets once, within the temporary one, whose name may be too long."""
    from multiprocessing import util

    with _choosing:
        before, tempfile.tempdir = tempfile.tempdir, str(home.socket_folder())
        try:
            util.get_temp_dir()
        finally:
            tempfile.tempdir = before


def run_pinned(
    function: Callable[..., Any],
    kwargs: Mapping[str, Any],
    *,
    log: Path,
    progress: Progress = no_progress,
    processes: int = 1,
) -> Any:
    """Run ``function(**kwargs, progress=...)`` in a fresh process on one slot and return its (small) result.

    With ``processes`` > 1 the function runs once a slot, with ``rank``, ``world`` and ``rendezvous`` (a ``file://``
    URL) added, and rank 0's result is returned. Output of the process goes to the file ``log``. An `InputError` inside
    is raised again here; another exception becomes a `StageError` with its text, its traceback is in the log; a
    process that is killed raises `WorkerDied`, one that hangs `tasks.workers.worker.Hung`.
    """
    warm_up()
    with take(processes) as held:
        progress(0, 0, "")  # waiting is over: see `tasks.core.results.Progress`
        return _run_ranks(function, kwargs, held, log, progress, several=processes > 1)


def run_unpinned(
    function: Callable[..., Any], kwargs: Mapping[str, Any], *, log: Path, progress: Progress = no_progress
) -> Any:
    """The same without waiting for a slot, for what needs heavy imports but no device."""
    warm_up()
    progress(0, 0, "")
    return _run_ranks(function, kwargs, [Slot("cpu", "none", 1)], log, progress, several=False)


def _run_ranks(
    function: Callable[..., Any],
    kwargs: Mapping[str, Any],
    held: list[Slot],
    log: Path,
    progress: Progress,
    *,
    several: bool,
) -> Any:
    rendezvous = log.with_suffix(".rendezvous")
    rendezvous.unlink(missing_ok=True)
    workers = []
    answered = False
    ended_before = cpu.ended_for_memory()
    try:
        memory = memory_share()
        for rank, slot in enumerate(held):
            extra = {"rank": rank, "world": len(held), "rendezvous": rendezvous.as_uri()} if several else {}
            ours, theirs = _context().Pipe()
            worker = _context().Process(
                target=work, args=(theirs, function, {**kwargs, **extra}, replace(slot, memory=memory), str(log))
            )
            _check_stopping()
            try:
                worker.start()
            except (EOFError, ConnectionError) as error:
                raise WorkerDied("no worker process could be started: the server that forks them was killed") from error
            workers.append((worker, ours))
            _living.add(worker)
            theirs.close()
            _check_stopping()  # `stop` may have come between the first look and now
        result = _await(workers, log, progress, ended_before)
        answered = True
        return result
    finally:
        for worker, ours in workers:
            if answered:
                worker.join(EXIT_SECONDS)  # let it clean up after itself
            if worker.is_alive():
                worker.kill()
            worker.join()
            _living.discard(worker)
            ours.close()
        rendezvous.unlink(missing_ok=True)


def _await(workers: list[tuple[Any, Any]], log: Path, progress: Progress, ended_before: int) -> Any:
    """Pass on progress and events until rank 0 has answered and every rank has ended well.

    ``ended_before``: how many processes the system had killed for memory when the workers began.
    """
    pending = {ours: worker for worker, ours in workers}
    first = workers[0][1]
    result, silence = None, Silence(log)
    while pending:
        began = time.monotonic()
        ready = _ready(pending, silence.look)
        if silence.over(time.monotonic() - began, heard=bool(ready)):
            raise silence.complaint(pending.values(), _host)
        for one in ready:
            try:
                if not one.poll():
                    raise EOFError
                kind, *body = one.recv()
            except (EOFError, ConnectionResetError):
                worker = pending.pop(one)
                worker.join()
                _check_stopping()
                said = f"the worker process died ({_cause(worker.exitcode)}); its output: {_host}{log}"
                for_memory = worker.exitcode == -signal.SIGKILL and cpu.ended_for_memory() > ended_before
                raise (OutOfMemory if for_memory else WorkerDied)(said) from None
            if kind == "progress" and one is first:
                progress(*body)
            elif kind == "peak":
                held(body[0])
            elif kind == "event":
                _relay(body[0])
            elif kind == "result":
                pending.pop(one)
                result = body[0] if one is first else result
            elif kind == "input":
                raise InputError(body[0])
            elif kind == "error":
                raise StageError(f"{body[0]} (full traceback: {_host}{log})")
    return result


def _relay(event: Event) -> None:
    """Tell here what was told in a worker, which does not know the stage's name."""
    if event.kind == "damaged":
        damaged(event.note, event.name)
    else:
        emit(event)


def _ready(pending: Mapping[Any, Any], seconds: float) -> list[Any]:
    """The pipes of the workers that said something or ended; a worker's own children may keep its pipe open."""
    ends = {worker.sentinel: ours for ours, worker in pending.items()}
    woken = multiprocessing.connection.wait([*pending, *ends], seconds)
    return list(dict.fromkeys(ends.get(one, one) for one in woken))


def _cause(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        hint = ", which the system sends where memory runs out" if exitcode == -signal.SIGKILL else ""
        return f"signal {signal.Signals(-exitcode).name}{hint}"
    hint = ", as when the server was killed that it was forked from" if exitcode == LOST else ""
    return f"exit code {exitcode}{hint}"
