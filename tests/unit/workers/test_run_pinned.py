"""Functions in worker processes that answer, fail, die or lose their driver; the driver that is stopped."""

from __future__ import annotations

import os
import platform
import re
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import InputError, StageError
from tasks.core.events import at_work, highest
from tasks.core.results import Progress
from tasks.workers import devices
from tasks.workers.devices import OutOfMemory, Stopped, WorkerDied, run_pinned, run_unpinned, slots, take
from tests.unit.workers.test_devices import SOON, start
from tests.unit.workers.test_devices import two_slots as two_slots

BEGUN = (0, 0, "")  # what progress says when the wait for a device is over
KILLED = "signal SIGKILL, which the system sends where memory runs out"

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("state")]


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + SOON
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


# --- what runs in a worker; at module level, because a worker finds it by its name -----------------------------------


def describe(*, word: str, progress: Progress) -> dict[str, Any]:
    import torch

    print(f"said {word}")
    os.write(2, b"complained\n")
    for done in range(3):
        progress(done, 3, f"step {done}")
    return {
        "word": word, "pid": os.getpid(), "visible": os.environ["CUDA_VISIBLE_DEVICES"],
        "threads": torch.get_num_threads(),
    }  # fmt: skip


def allocate(*, progress: Progress) -> list[int]:
    """Pages that the system had to make for each of twelve tensors of 16 MiB, one after the other."""
    import torch

    made = []
    for _ in range(12):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.zeros(2**22).add_(1.0)
        made.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return made


def fail(*, error: BaseException, progress: Progress) -> None:
    raise error


def hold(floats: int, progress: Progress) -> tuple[float, int]:
    """The worker's share of memory, and the most that it had held before it takes ``floats`` doubles."""
    import array

    from tasks.workers import worker as workers

    before = workers.peak_memory()
    array.array("d", bytes(8)) * floats
    return workers._share, before


def die(*, how: str, pid_file: Path | None = None, progress: Progress) -> None:
    if how == "exit":
        os._exit(3)
    if how == "with a child" and not os.fork():
        time.sleep(SOON)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)


def unspeakable(*, progress: Progress) -> Any:
    return lambda: None


def ranked(*, rank: int, world: int, rendezvous: str, fails: int, progress: Progress) -> list[Any]:
    progress(rank, world, "")
    if rank == fails:
        raise ValueError(f"rank {rank} has had enough")
    if fails >= 0:
        time.sleep(10 * SOON)
    return [rank, world, rendezvous.startswith("file://"), os.getpid()]


def sleep(*, pid_file: Path, progress: Progress) -> None:
    pid_file.write_text(str(os.getpid()))
    progress(1, 2, "asleep")
    time.sleep(10 * SOON)


def refuse_to_end(*, pid_file: Path, progress: Progress) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sleep(pid_file=pid_file, progress=progress)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "worker.log"


@pytest.mark.usefixtures("two_slots")
def test_a_result_progress_and_output_come_back(log: Path) -> None:
    told: list[tuple[int, int, str]] = []
    found = run_pinned(describe, {"word": "hello"}, log=log, progress=lambda *step: told.append(step))
    assert found["pid"] != os.getpid()
    assert (found["word"], found["visible"], found["threads"]) == ("hello", "", slots()[0].threads)
    assert told == [BEGUN, (0, 3, "step 0"), (1, 3, "step 1"), (2, 3, "step 2")]
    assert sorted(log.read_text().splitlines()) == ["complained", "said hello"]
    run_pinned(describe, {"word": "again"}, log=log)
    assert "said again" in log.read_text()
    assert "said hello" in log.read_text()
    assert eventually(lambda: gone(found["pid"]))


def test_a_worker_is_pinned_to_its_gpu_and_refuses_to_compute_without_it(
    monkeypatch: pytest.MonkeyPatch, log: Path
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,7")  # no machine here has eight: torch sees none
    with pytest.raises(StageError, match="GPU 6 is there but torch cannot use it"):
        run_pinned(describe, {"word": "x"}, log=log)
    with take(1), pytest.raises(StageError, match="GPU 7 is there but torch cannot use it"):
        run_pinned(describe, {"word": "x"}, log=log)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc, whose malloc is set")
def test_a_worker_keeps_the_memory_that_it_frees(log: Path) -> None:
    """16 MiB are 4,096 pages: made while the heap grows, then there. With the defaults they are made each time.

    Once or twice the heap grows again: where something small was put into the 16 MiB between two tensors.
    """
    made = run_pinned(allocate, {}, log=log)
    assert made[0] > 1000
    assert sum(pages > 100 for pages in made) <= len(made) // 3, made


def expendable(*, progress: Progress) -> str:
    return Path("/proc/self/oom_score_adj").read_text().strip()


@pytest.mark.skipif(not Path("/proc/self/oom_score_adj").exists(), reason="only Linux chooses by a score")
def test_where_memory_runs_out_a_worker_goes_before_the_command(log: Path) -> None:
    assert int(run_pinned(expendable, {}, log=log)) >= 500


@pytest.mark.usefixtures("two_slots")
def test_a_server_of_workers_that_is_killed_as_one_begins_is_a_worker_that_died(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault is drawn by hand: no kill hits the few milliseconds between the request and its answer."""

    def cut(self: object) -> None:
        raise EOFError("unexpected EOF")

    monkeypatch.setattr(devices._context().Process, "start", cut)
    with pytest.raises(
        WorkerDied, match=r"^no worker process could be started: the server that forks them was killed$"
    ):
        run_pinned(describe, {"word": "x"}, log=log)


@pytest.mark.usefixtures("two_slots")
def test_a_check_waits_for_no_slot(log: Path) -> None:
    with take(2):
        assert run_unpinned(describe, {"word": "x"}, log=log)["word"] == "x"


@pytest.mark.usefixtures("two_slots")
def test_bad_input_inside_a_worker_is_bad_input(log: Path) -> None:
    with pytest.raises(InputError, match=r"^field: as it was$"):
        run_pinned(fail, {"error": InputError("field: as it was")}, log=log)


@pytest.mark.usefixtures("two_slots")
@pytest.mark.parametrize("error", [ValueError("broken"), StageError("broken"), SystemExit("broken"), MemoryError()])
def test_another_exception_is_a_stage_error_with_the_traceback_in_the_log(log: Path, error: BaseException) -> None:
    with pytest.raises(StageError) as caught:
        run_pinned(fail, {"error": error}, log=log)
    assert not isinstance(caught.value, WorkerDied)  # trying again cannot heal it
    assert str(caught.value) == f"{type(error).__name__}: {error} (full traceback: {log})"
    assert "Traceback (most recent call last)" in log.read_text()
    assert "in fail" in log.read_text()


@pytest.mark.usefixtures("two_slots")
def test_on_a_ray_node_the_log_is_named_with_its_machine(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_host", "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    devices.use_assigned([])
    place = re.escape(f"{socket.gethostname()}:{log}")
    with pytest.raises(StageError, match=rf"\(full traceback: {place}\)$"):
        run_unpinned(fail, {"error": ValueError("bad")}, log=log)
    with pytest.raises(WorkerDied, match=rf"its output: {place}$"):
        run_unpinned(die, {"how": "exit"}, log=log)


def test_a_result_that_cannot_travel_is_a_stage_error(log: Path) -> None:
    with pytest.raises(StageError, match="unspeakable") as caught:
        run_pinned(unspeakable, {}, log=log)
    assert not isinstance(caught.value, WorkerDied)


@pytest.mark.usefixtures("two_slots")
@pytest.mark.parametrize(
    ("how", "counted", "expected"),
    [("signal", [3, 4], OutOfMemory), ("signal", [3, 3], WorkerDied), ("exit", [3, 4], WorkerDied)],
)
def test_what_the_system_killed_for_memory_is_told_from_what_somebody_killed(
    log: Path, monkeypatch: pytest.MonkeyPatch, how: str, counted: list[int], expected: type[Exception]
) -> None:
    """By the system's own count of such kills, before and after, and by the signal."""
    monkeypatch.setattr(
        "tasks.workers.cpu.ended_for_memory", lambda: counted.pop(0) if len(counted) > 1 else counted[0]
    )
    with pytest.raises(WorkerDied) as caught:
        run_pinned(die, {"how": how}, log=log)
    assert type(caught.value) is expected


@pytest.mark.usefixtures("two_slots")
def test_a_worker_s_share_of_memory_and_the_most_that_it_held(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """5 GiB free and two slots: 2.5 GiB for each; a list of 2^25 floats takes 2^28 bytes and more while it is there."""
    monkeypatch.setattr("tasks.workers.cpu.free_memory", lambda: 5.0 * 2**30)
    with at_work("stage"):
        share, before = run_pinned(hold, {"floats": 2**25}, log=log)
        peak = highest()
    assert share == 2.5 * 2**30
    assert 2**28 <= peak - before < 2**29


@pytest.mark.usefixtures("two_slots")
@pytest.mark.parametrize(("how", "cause"), [("signal", KILLED), ("exit", "exit code 3"), ("with a child", KILLED)])
def test_a_worker_that_dies_is_noticed_at_once(log: Path, how: str, cause: str) -> None:
    began = time.monotonic()
    with pytest.raises(WorkerDied) as caught:
        run_pinned(die, {"how": how}, log=log)
    assert str(caught.value) == f"the worker process died ({cause}); its output: {log}"
    assert time.monotonic() - began < SOON / 2  # a child of the worker that holds on to its pipe does not matter
    with take(2) as held:
        assert len(held) == 2


@pytest.mark.usefixtures("two_slots")
def test_several_ranks_run_side_by_side_and_the_first_answers(log: Path) -> None:
    told: list[tuple[int, int, str]] = []
    found = run_pinned(ranked, {"fails": -1}, log=log, processes=2, progress=lambda *step: told.append(step))
    assert found[:3] == [0, 2, True]
    assert told == [BEGUN, (0, 2, "")]  # of rank 0 only
    assert not log.with_suffix(".rendezvous").exists()


@pytest.mark.usefixtures("two_slots")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_fails_ends_the_others(log: Path, rank: int) -> None:
    began = time.monotonic()
    with pytest.raises(StageError, match=f"^ValueError: rank {rank} has had enough"):
        run_pinned(ranked, {"fails": rank}, log=log, processes=2)
    assert time.monotonic() - began < SOON
    with take(2) as held:
        assert len(held) == 2


@pytest.mark.usefixtures("two_slots")
def test_an_interrupt_in_the_driver_ends_the_worker(log: Path, tmp_path: Path) -> None:
    def interrupt(*step: Any) -> None:
        if step != BEGUN:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_pinned(sleep, {"pid_file": tmp_path / "pid"}, log=log, progress=interrupt)
    assert eventually(lambda: gone(int((tmp_path / "pid").read_text())))


@pytest.mark.usefixtures("two_slots")
def test_stopping_ends_what_runs_and_what_waits_and_refuses_more(log: Path, tmp_path: Path) -> None:
    failures: list[BaseException] = []
    begun = threading.Event()

    def work(name: str) -> None:
        def told(*step: Any) -> None:
            if step != BEGUN:
                begun.set()

        try:
            run_pinned(sleep, {"pid_file": tmp_path / name}, log=log, progress=told, processes=1)
        except BaseException as error:
            failures.append(error)

    with take(1):  # so that one of the two has to wait
        threads = [threading.Thread(target=work, args=(name,)) for name in ("one", "two")]
        for thread in threads:
            thread.start()
        assert begun.wait(SOON)
        try:
            devices.stop()
            for thread in threads:
                thread.join(SOON)
            assert [type(error) for error in failures] == [Stopped, Stopped]
            with pytest.raises(Stopped):
                run_pinned(describe, {"word": "x"}, log=log)
        finally:
            devices.allow()
    (pid_file,) = tmp_path.glob("[ot][nw][eo]")
    assert eventually(lambda: gone(int(pid_file.read_text())))
    assert run_pinned(describe, {"word": "x"}, log=log)["word"] == "x"


@pytest.mark.usefixtures("two_slots")
@pytest.mark.parametrize("impatient", [False, True], ids=["time is up", "another Ctrl-C"])
def test_stopping_kills_what_does_not_end(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, impatient: bool
) -> None:
    monkeypatch.setattr(devices, "STOP_SECONDS", 2 * SOON if impatient else 0.5)
    failures: list[BaseException] = []
    asleep = threading.Event()

    def work() -> None:
        try:
            run_pinned(
                refuse_to_end, {"pid_file": tmp_path / "pid"}, log=log,
                progress=lambda *step: asleep.set() if step != BEGUN else None,
            )  # fmt: skip
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert asleep.wait(SOON)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts ignoring it
    if impatient:
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    began = time.monotonic()
    try:
        devices.stop()
        thread.join(SOON)
    finally:
        signal.signal(signal.SIGINT, before)
        devices.allow()
    assert 0.4 < time.monotonic() - began < SOON
    assert [type(error) for error in failures] == [Stopped]
    assert eventually(lambda: gone(int((tmp_path / "pid").read_text())))


DRIVER = """
import sys, time
from pathlib import Path
from tasks.workers import devices
from tests.unit.workers.test_run_pinned import sleep

if __name__ == "__main__":
    devices._context().set_forkserver_preload([])  # no need for its slow imports
    devices.run_pinned(sleep, {"pid_file": Path(sys.argv[1])}, log=Path(sys.argv[2]), progress=print)
"""


@pytest.mark.usefixtures("two_slots")
def test_a_worker_ends_with_its_driver(log: Path, tmp_path: Path) -> None:
    driver = start(DRIVER, tmp_path / "pid", log)
    assert eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
    worker = int((tmp_path / "pid").read_text())
    assert not gone(worker)
    driver.kill()
    driver.communicate()
    assert eventually(lambda: gone(worker))
    with take(2) as held:
        assert len(held) == 2
