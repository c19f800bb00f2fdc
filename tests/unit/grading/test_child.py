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

from tasks.core.errors import StageError
from tasks.grading import pool as module
from tasks.grading.child import HARD_SECONDS
from tasks.grading.grade import Grade, grade, grade_many
from tasks.grading.pool import POOL, QUESTIONS_A_CHILD, Child, Pool

pytestmark = pytest.mark.slow  # processes that are killed, and formulas that never end

HALF = r"\boxed{\frac12}"


def pids(pool: Pool = POOL) -> list[int]:
    return [child.process.pid for child in pool.children if child.process is not None]


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
    queue.put((grade(HALF, value).reward, pids()))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_worker_process_gets_a_child_of_its_own(method: str) -> None:
    assert grade(HALF, "0.5").reward == 1.0
    ours = pids()
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    worker = context.Process(target=_graded, args=("0.5", queue), daemon=True)  # daemons may not use multiprocessing
    worker.start()
    reward, theirs = queue.get(timeout=60)
    worker.join(timeout=60)
    assert reward == 1.0
    assert len(theirs) == 1
    assert not set(theirs) & set(ours)
    assert grade(HALF, "0.5").reward == 1.0
    assert pids() == ours


def test_a_killed_child_is_replaced() -> None:
    grade(HALF, "0.5")
    for pid in (killed := pids()):
        os.kill(pid, signal.SIGKILL)
    assert grade(HALF, "0.5") == Grade(1.0, r"\frac12")
    assert set(pids()) - set(killed)


@pytest.mark.parametrize("formula", [r"9^{9^{9^{9}}}", r"\sum_{k=1}^{1000000000} \sin(k)", r"(10^{9})!"])
def test_a_formula_that_never_ends_is_wrong_within_the_limit(formula: str) -> None:
    grade(HALF, "0.5")
    start = time.perf_counter()
    assert grade(rf"\boxed{{{formula}}}", "72").reward == 0.0
    assert time.perf_counter() - start < HARD_SECONDS + 30  # the limit is of processor seconds
    assert grade(HALF, "0.5").reward == 1.0


@pytest.mark.parametrize(
    ("limit", "blocks", "ended"),
    [
        # Deaf to signals: PyDLL keeps the interpreter lock, like a big power.
        ("STUCK_SECONDS = 0.5", "ctypes.PyDLL(None).sleep(60)", 1),
        # Seconds on the clock say nothing on a busy machine; SIGXCPU reaches C code, and is not asked again.
        ("HARD_SECONDS = 1", "9 ** 9 ** 9", -signal.SIGXCPU),
    ],
)
def test_what_blocks_inside_c_is_ended_by_the_watchdog_or_its_share_of_the_processor(
    limit: str, blocks: str, ended: int
) -> None:
    code = (
        "import ctypes, tasks.grading.child as g\n"
        f"g.{limit}\n"
        "first = g.compare\n"
        "def stuck(answer, gold):\n"
        f"    if 'never' in answer: {blocks}\n"
        "    return first(answer, gold)\n"
        "g.compare = stuck\n"
        "g.serve()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL, text=True)  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    start = time.perf_counter()
    child.stdin.write('["never", "1"]\n')
    child.stdin.flush()
    assert child.stdout.readline() == ""
    assert child.wait(timeout=60) == ended
    if ended == 1:
        assert time.perf_counter() - start < 5
    child.stdin.close()
    child.stdout.close()


def test_the_child_ends_with_its_parent() -> None:
    code = (
        "import os, signal, tasks.grading.grade as g\n"
        "g.grade(r'\\boxed{\\frac12}', '0.5')\n"
        "print(*[c.process.pid for c in g.POOL.children if c.process], flush=True)\n"
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
    child = Child()
    monkeypatch.setattr(module.sys, "path", [])  # nothing of ours can be imported there
    with pytest.raises(StageError, match="math-verify did not start"):
        child.ask(HALF, "0.5")


def test_a_pool_keeps_the_order_and_uses_all_its_children() -> None:
    pool = Pool(3)
    halves = list(range(3 * QUESTIONS_A_CHILD))
    try:
        found = list(pool.map(lambda i: pool.ask(rf"\boxed{{\frac{{{i}}}{{2}}}}", rf"\boxed{{{i // 2}}}"), halves))
        assert len(pids(pool)) == 3
    finally:
        pool.close()
    assert [reply[0] for reply in found] == [i % 2 == 0 for i in halves]
    assert pids(pool) == []


def test_a_few_questions_start_one_child() -> None:
    pool = Pool(4)
    try:
        list(pool.map(lambda i: pool.ask(HALF, r"\boxed{0.5}"), range(QUESTIONS_A_CHILD - 1)))
        assert len(pids(pool)) == 1
    finally:
        pool.close()


def test_one_endless_formula_costs_its_own_answer_only() -> None:
    completions = [rf"\boxed{{\frac{{{i}}}{{2}}}}" for i in range(60)]
    completions[7] = r"\boxed{\sum_{k=1}^{1000000000} \sin(k)}"
    grades = grade_many(completions, [f"{i / 2}" for i in range(60)])
    assert [g.reward for g in grades] == [float(i != 7) for i in range(60)]
    assert all(g.gold_parsed for g in grades)


def test_a_child_killed_while_it_works_is_asked_again() -> None:
    """A stopped child does not answer: it is killed while the question waits, and the next one answers it."""
    child = Child()
    try:
        child.ask(HALF, r"\boxed{0.5}")
        assert child.process is not None
        first = child.process.pid
        os.kill(first, signal.SIGSTOP)
        killer = threading.Timer(0.3, os.kill, (first, signal.SIGKILL))
        killer.start()
        assert child.ask(HALF, r"\boxed{0.5}") == (True, r"\frac{1}{2}", True)
        assert child.process.pid != first
    finally:
        child.close()
