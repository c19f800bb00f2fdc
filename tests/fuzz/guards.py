"""What a reader of strangers' input may do while it is fuzzed: little memory, little time, no writing outside its
folder, no network, no pickle, no program but its own helpers."""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MEMORY = 6 * 2**30
"""Bytes of address space, of which torch and pyarrow take about two for nothing."""
CASE_SECONDS = 20.0
"""The grader's own limit is six seconds a judgement."""
HANG_SECONDS = 90.0
"""For what Python cannot interrupt: then the process ends, and its stacks are told."""

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_PATHS = {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
          "shutil.move", "shutil.rmtree", "shutil.copyfile"}  # fmt: skip
_NEVER = {"socket.connect", "socket.bind", "pickle.find_class", "os.system", "os.exec"}


class Hang(BaseException):
    """A case took too long. No handler for ordinary errors takes it for one of those."""


class Watch:
    """Collects what a case did that it may not do, by Python's audit events (PEP 578)."""

    def __init__(self, scratch: Path) -> None:
        self.found: list[str] = []
        self._scratch = os.path.realpath(scratch)
        self._on = False
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._on:
            return
        if event == "open":
            path, mode, flags = arguments
            if self._outside(path) and ((flags or 0) & _WRITES or set(mode or "r") & set("wax+")):
                self.found.append(f"wrote {path!r}")
        elif event in _PATHS:
            self.found += [f"{event} {path!r}" for path in arguments if self._outside(path)]
        elif event in _NEVER:
            self.found.append(f"{event}{arguments!r:.200}")
        elif event == "subprocess.Popen" and arguments[0] != sys.executable:
            self.found.append(f"started {arguments[0]!r}")

    def _outside(self, path: Any) -> bool:
        if not isinstance(path, str | bytes | os.PathLike) or os.fspath(path) in (os.devnull, b"/dev/null"):
            return False
        place = os.path.realpath(os.fsdecode(path))
        return place != self._scratch and not place.startswith(self._scratch + os.sep)

    @contextmanager
    def case(self) -> Iterator[None]:
        """Watch one case and limit its time."""
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
        signal.signal(signal.SIGALRM, _hang)
        signal.setitimer(signal.ITIMER_REAL, CASE_SECONDS)
        self.found.clear()
        self._on = True
        try:
            yield
        finally:
            self._on = False
            signal.setitimer(signal.ITIMER_REAL, 0)
        assert not self.found, list(self.found)


def _hang(*_: Any) -> None:
    raise Hang(f"a case took more than {CASE_SECONDS:.0f} s")


def confine(scratch: Path) -> Watch:
    """This process from now on: its folder, its memory, its temporary files, and no network for libraries that ask."""
    os.chdir(scratch)
    os.environ |= {"TMPDIR": str(scratch), "COLINEAR_HOME": str(scratch / "home"), "HF_HUB_OFFLINE": "1"}
    tempfile.tempdir = None
    sys.dont_write_bytecode = True
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    return Watch(scratch)
