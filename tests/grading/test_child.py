"""The child process that runs math-verify: threads, forks, death, and formulas that never end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from tasks.contracts import StageError
from tasks.grading import grade as module
from tasks.grading.grade import HARD_SECONDS, Grade, grade

HALF = r"\boxed{\frac12}"


def test_works_in_other_threads_at_once() -> None:
    results: dict[int, float] = {}

    def work(i: int) -> None:
        results[i] = grade(rf"\boxed{{\frac{{{i}}}{{2}}}}", f"{i / 2}").reward

    threads = [threading.Thread(target=work, args=(i,)) for i in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(1, 9), 1.0)


def _graded(value: str, queue: multiprocessing.Queue) -> None:
    queue.put((grade(HALF, value).reward, module._CHILD._process.pid))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_worker_process_gets_a_child_of_its_own(method: str) -> None:
    assert grade(HALF, "0.5").reward == 1.0
    ours = module._CHILD._process.pid
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    worker = context.Process(target=_graded, args=("0.5", queue), daemon=True)  # daemons may not use multiprocessing
    worker.start()
    reward, theirs = queue.get(timeout=60)
    worker.join(timeout=60)
    assert reward == 1.0
    assert theirs != ours
    assert grade(HALF, "0.5").reward == 1.0
    assert module._CHILD._process.pid == ours


def test_a_killed_child_is_replaced() -> None:
    grade(HALF, "0.5")
    process = module._CHILD._process
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert grade(HALF, "0.5") == Grade(1.0, r"\frac12")


@pytest.mark.parametrize("formula", [r"9^{9^{9^{9}}}", r"\sum_{k=1}^{1000000000} \sin(k)", r"(10^{9})!"])
def test_a_formula_that_never_ends_is_wrong_within_the_limit(formula: str) -> None:
    grade(HALF, "0.5")
    start = time.perf_counter()
    assert grade(rf"\boxed{{{formula}}}", "72").reward == 0.0
    assert time.perf_counter() - start < HARD_SECONDS + 2
    assert grade(HALF, "0.5").reward == 1.0


def test_the_watchdog_ends_what_no_signal_can_interrupt() -> None:
    """A child whose judgement blocks inside C, deaf to signals: the read ends, and the next child answers."""
    code = (
        "import signal, sys, ctypes, tasks.grading.grade as g\n"
        "g.HARD_SECONDS, first = 0.5, g._compare\n"
        "def stuck(answer, gold):\n"
        "    if 'never' in answer: ctypes.PyDLL(None).sleep(60)\n"  # PyDLL keeps the interpreter lock, like a big power
        "    return first(answer, gold)\n"
        "g._compare = stuck\n"
        "g._serve()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    start = time.perf_counter()
    child.stdin.write('["never", "1"]\n')
    child.stdin.flush()
    assert child.stdout.readline() == ""
    assert time.perf_counter() - start < 5
    assert child.wait(timeout=5) == 1
    child.stdin.close()
    child.stdout.close()


def test_the_child_ends_with_its_parent() -> None:
    code = (
        "import os, signal, tasks.grading.grade as g\n"
        "g.grade(r'\\boxed{\\frac12}', '0.5')\n"
        "print(g._CHILD._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    parent = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert parent.returncode == -signal.SIGKILL
    pid = int(parent.stdout)
    deadline = time.monotonic() + 10
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(pid)


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_child_that_cannot_start_is_a_stage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    child = module._Child()
    monkeypatch.setattr(module.sys, "path", [])  # nothing of ours can be imported there
    with pytest.raises(StageError, match="math-verify did not start"):
        child.ask(HALF, "0.5")
