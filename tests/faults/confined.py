"""Run a piece of Python in a process of its own, within bounds of memory and time, and say what it took."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ran:
    """``seconds`` of a core and bytes of ``memory`` at its peak that the process took."""

    code: int
    stdout: str
    stderr: str
    seconds: float
    memory: int


def confined(words: list[str], *, memory: int = 4 * 2**30, seconds: float = 60.0, **environment: str) -> Ran:
    """``python WORDS`` with ``memory`` bytes of address space; raises `subprocess.TimeoutExpired` after ``seconds``."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=seconds, preexec_fn=limit, cwd=ROOT,
        stdin=subprocess.DEVNULL, errors="surrogateescape",
        env={**os.environ, **one, **environment},
    )  # fmt: skip
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = now.ru_utime + now.ru_stime - before.ru_utime - before.ru_stime
    peak = 1024 * now.ru_maxrss if now.ru_maxrss > before.ru_maxrss else 0
    return Ran(done.returncode, done.stdout, done.stderr, took, peak)


READ = """
import sys
from pathlib import Path
from tasks.core.errors import InputError
from tasks.{module} import {function} as read
try:
    print(read(Path(sys.argv[1])))
except InputError as error:
    print(error)
    sys.exit(2)
"""


def read(function: str, path: Path, **bounds: float) -> Ran:
    """``module.function(path)`` there; exit code 2 and the message where it is refused."""
    module, _, name = function.rpartition(".")
    code = READ.format(module=module, function=name)
    return confined(["-c", code, str(path)], **bounds)  # type: ignore[arg-type]
