"""The parent's side: child processes that judge with math-verify, as many as there are cores, started when needed.

math-verify's own time limit is a signal, which only a main thread can take and which cannot interrupt ``9^{9^{9}}``
inside the C of an integer power. A child has a main thread, and a watchdog that ends it `child.HARD_SECONDS` after a
formula began; that formula is unreadable then. `subprocess` and not `multiprocessing`: Prefect's workers are daemons.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from math import nan
from typing import IO, Any, TypeVar

from tasks.core.cores import cores
from tasks.core.errors import StageError
from tasks.grading.child import Reply

T = TypeVar("T")
R = TypeVar("R")

_CODE = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from tasks.grading.child import serve; serve()"


class Child:
    """One child process; started when first asked, again after it died. Used by one thread at a time."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self._killed = False

    def ask(self, answer: str | None, gold: str) -> Reply | None:
        """`child.compare` of the two texts; None past the time limit, or where a formula took two children down.

        A child that somebody else killed (memory, a signal) is replaced and asked again: its death is not the answer's.
        """
        reply = self._told([answer, gold])
        return None if reply is None else (reply[0], reply[1], reply[2])

    def magnitude(self, text: str) -> float | None:
        """`child.magnitude`; NaN past the time limit."""
        reply = self._told([text])
        return nan if reply is None else reply[0]

    def _told(self, texts: list[str | None]) -> list[Any] | None:
        return self._ask(texts) or (self._ask(texts) if self._killed else None)

    def _ask(self, texts: list[str | None]) -> list[Any] | None:
        process = self.process if self.process is not None and self.process.poll() is None else self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(texts) + "\n")
            process.stdin.flush()
            reply = process.stdout.readline()
        except BrokenPipeError:
            reply = ""
        if not reply:
            code = process.wait()
            self._killed = code < 0 and code != -signal.SIGXCPU  # its limits end it by that signal or with 1
            self.close()
            return None
        return list(json.loads(reply))

    def _start(self) -> subprocess.Popen[str]:
        self.close()
        self.process = process = subprocess.Popen(
            [sys.executable, "-c", _CODE, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="ascii",
        )
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            self.close()
            raise StageError("grading: math-verify did not start; `python -c 'import math_verify'` shows why")
        return process

    def close(self) -> None:
        """End the child. It also ends by itself when this process does, since its input closes."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    _close_quietly(pipe)


class Pool:
    """Up to ``size`` children (default: the cores this process may use). Safe in any thread and after a fork."""

    def __init__(self, size: int | None = None) -> None:
        self.size = size or cores()
        self._open()

    def _open(self) -> None:
        self.children = [Child() for _ in range(self.size)]
        self._free: queue.LifoQueue[Child] = queue.LifoQueue()  # last in, first out: one caller keeps to one child
        for child in self.children:
            self._free.put(child)

    def ask(self, answer: str | None, gold: str) -> Reply | None:
        """As `Child.ask`, on a child that is free; waits for one."""
        with self._child() as child:
            return child.ask(answer, gold)

    def magnitude(self, text: str) -> float | None:
        """As `Child.magnitude`, on a child that is free."""
        with self._child() as child:
            return child.magnitude(text)

    @contextmanager
    def _child(self) -> Iterator[Child]:
        child = self._free.get()
        try:
            yield child
        finally:
            self._free.put(child)

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """``function`` of each item, in order, as many at once as there are children for.

        A child takes half a second to start: it has to have work for about as long.
        """
        work = list(items)
        threads = min(self.size, 1 + len(work) // QUESTIONS_A_CHILD)
        if threads == 1:
            yield from map(function, work)
            return
        with ThreadPoolExecutor(threads, thread_name_prefix="grading") as executor:
            try:
                yield from executor.map(function, work)
            finally:
                executor.shutdown(wait=True, cancel_futures=True)

    def close(self) -> None:
        for child in self.children:
            child.close()

    def forget(self) -> None:
        """In a forked process: the parent's children are not ours; their pipes must not be flushed or waited for."""
        self._inherited = self.children
        self._open()


QUESTIONS_A_CHILD = 48
"""About what one child judges while another starts."""


def _close_quietly(pipe: IO[str]) -> None:
    try:
        pipe.close()
    except BrokenPipeError:
        return  # a dead child's unread request: nothing is lost


POOL = Pool()
"""This process's children; none is started before something has to be judged."""
atexit.register(POOL.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=POOL.forget)
