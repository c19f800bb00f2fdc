"""What runs out or stands still, for real: workers that hang, a full tmpfs, a limit on memory, a read-only folder."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tasks.core import home
from tasks.core.errors import InputError, StageError
from tasks.core.results import Progress
from tasks.storage.leftovers import drop_leftovers
from tasks.storage.state import check_databases, check_writable
from tasks.workers.devices import WorkerDied, run_pinned, run_unpinned, take
from tasks.workers.worker import Hung, beat, hang_seconds
from tests.faults.clocks import DAY, Clock
from tests.faults.disks import mounted

ROOT = Path(__file__).parents[2]
HANG = 2.0
"""Seconds after which a worker of these tests counts as hung; those that live are heard of four times as often."""

pytestmark = pytest.mark.usefixtures("state")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLINEAR_HANG_SECONDS", str(HANG))


# --- hangs; the functions are at module level, because a worker finds them by their names ----------------------------


def sleep(*, progress: Progress) -> None:
    progress(1, 3, "asleep")
    time.sleep(600)


def block(*, progress: Progress) -> None:
    """In C, with the interpreter's lock held: no thread of Python's own could say where it stands."""
    ctypes.PyDLL(None).sleep(600)


def wait_for_nobody(*, progress: Progress) -> None:
    """In a thread, which the main one joins."""
    thread = threading.Thread(target=threading.Event().wait, name="nobody")
    thread.start()
    thread.join()


def loop(*, progress: Progress) -> None:
    while True:
        pass


def live(*, how: str, progress: Progress) -> str:
    """Twice as long as a hang takes, and heard of every now and then."""
    for i in range(round(2 * HANG / 0.25)):
        time.sleep(0.25)
        if how == "progress":
            progress(i, 100, "")
        elif how == "beats":
            beat()
        else:
            print(i, flush=True)
    return how


HANGS = {"sleep": sleep, "block": block, "wait_for_nobody": wait_for_nobody, "loop": loop}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", HANGS)
def test_a_worker_that_hangs_is_ended_and_its_log_says_where_it_stood(tmp_path: Path, name: str) -> None:
    log = tmp_path / "worker.log"
    began = time.monotonic()
    with pytest.raises(Hung) as caught:
        run_pinned(HANGS[name], {}, log=log)
    assert HANG <= time.monotonic() - began < HANG + 300  # of which up to minutes for the fork server, on busy cores
    assert not isinstance(caught.value, WorkerDied)  # begun again at once, it would hang again
    assert re.sub(r"\d+ s", "N s", str(caught.value)) == (
        f"the worker process hung: no sign of life for N s, so it was ended; where it stood is in {log}; if it was "
        "only slow, set COLINEAR_HANG_SECONDS higher (0: no limit)"
    )
    dump = log.read_text()
    assert "(most recent call first):" in dump
    assert re.search(rf'test_resources.py", line \d+ in {name}\b', dump)
    if name == "wait_for_nobody":
        assert len(re.findall(r"^(?:Current thread|Thread) 0x", dump, re.MULTILINE)) >= 3  # main, its thread, ours
    with take(1) as held:  # the device is free again
        assert len(held) == 1


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "how",
    ["beats", *(pytest.param(how, marks=pytest.mark.faults) for how in ("progress", "lines in its log"))],
)
def test_a_worker_that_is_heard_of_is_no_hang(tmp_path: Path, how: str) -> None:
    assert run_unpinned(live, {"how": how}, log=tmp_path / "worker.log") == how


DRIVER = """
import sys
from pathlib import Path
from tasks.workers import devices
from tests.faults.test_resources import live

if __name__ == "__main__":
    said = lambda *step: print("begun", flush=True) if step != (0, 0, "") else None
    print(devices.run_unpinned(live, {"how": "progress"}, log=Path(sys.argv[1]), progress=said))
"""


@pytest.mark.faults
def test_time_in_which_the_study_itself_was_stopped_is_no_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-Z, or a debugger: afterwards the driver is the first to run, and has heard of nobody for a long time."""
    patience = 10.0  # a worker that begins imports this file, which takes seconds where the cores are busy
    monkeypatch.setenv("COLINEAR_HANG_SECONDS", str(patience))
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path / "worker.log")], cwd=ROOT, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert driver.stdout is not None
    assert driver.stdout.readline() == "begun\n", driver.communicate()
    os.killpg(driver.pid, signal.SIGSTOP)
    time.sleep(1.5 * patience)
    os.kill(driver.pid, signal.SIGCONT)
    time.sleep(0.3)  # the driver looks while the worker still stands
    os.killpg(driver.pid, signal.SIGCONT)
    said, complaint = driver.communicate(timeout=60)
    assert said.endswith("progress\n"), complaint


@pytest.mark.parametrize("text", ["-1", "soon", "nan"])
def test_a_bad_time_out_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("COLINEAR_HANG_SECONDS", text)
    refusal = f"COLINEAR_HANG_SECONDS: expected a number of seconds, 0 for no limit, got '{text}'"
    with pytest.raises(InputError, match=re.escape(refusal)):
        run_unpinned(sleep, {}, log=tmp_path / "worker.log")


def test_by_default_half_an_hour_of_silence_is_a_hang_and_0_means_never(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLINEAR_HANG_SECONDS", raising=False)
    assert hang_seconds() == 1800
    monkeypatch.setenv("COLINEAR_HANG_SECONDS", "0")
    assert hang_seconds() == float("inf")


# --- memory ----------------------------------------------------------------------------------------------------------


def allocate(*, limit: int, progress: Progress) -> Any:
    """A tensor of 4 GiB where the system gives this process ``limit`` bytes of address space more than it has."""
    import torch

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + limit, used + limit))
    return torch.zeros(2**30)


def test_memory_that_the_system_refuses_is_said_with_its_size(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"can't allocate memory: you tried to allocate 4294967296 bytes"):
        run_unpinned(allocate, {"limit": 2**28}, log=tmp_path / "worker.log")


# --- disks -----------------------------------------------------------------------------------------------------------


def write(*, out: Path, how: str, progress: Progress) -> None:
    """8 MB, by what stages write with."""
    import numpy as np
    import polars as pl
    import torch
    from safetensors.numpy import save_file

    numbers = np.random.default_rng(0).random(2**20)
    if how == "torch":
        torch.save(torch.from_numpy(numbers), out / "optimizer.pt")
    elif how == "safetensors":
        save_file({"x": numbers}, out / "adapter_model.safetensors")
    elif how == "polars":
        pl.DataFrame({"x": numbers}).write_parquet(out / "rows.parquet")
    else:
        (out / "bytes").write_bytes(numbers.tobytes())


@pytest.mark.parametrize("how", ["torch", "safetensors", "polars", "plain"])
def test_a_full_disk_is_named_whoever_writes(tmp_path: Path, how: str) -> None:
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=4m", "none") as disk:
        with pytest.raises(StageError) as caught:
            run_unpinned(write, {"out": disk, "how": how}, log=tmp_path / "worker.log")
        said = str(caught.value)
        assert f"the disk of {disk} is full" in said or "No space left on device" in said, said
        for path in disk.iterdir():
            path.unlink()


def test_a_worker_whose_log_is_on_the_full_disk_says_why_it_ended(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=4m", "none") as disk:
        with pytest.raises(StageError, match="No space left on device") as caught:
            run_unpinned(write, {"out": disk, "how": "plain"}, log=disk / "worker.log")
        assert not isinstance(caught.value, WorkerDied)


def test_a_full_disk_under_mlflows_database_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from tasks.storage.store import STUDIES, Store

    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=8m", "none") as disk:
        monkeypatch.setenv("COLINEAR_HOME", str(disk))
        store = Store()
        run = store.open_run("a run", experiment=STUDIES)
        with suppress(OSError), (disk / "rest").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        with pytest.raises(StageError) as caught:
            store.log_params(run, {f"parameter {i}": "x" * 5000 for i in range(100)})
        assert str(caught.value) == f"MLflow's database {disk / 'mlflow.db'}: database or disk is full"
        assert caplog.text == ""
        (disk / "rest").unlink()
        store.client.set_tag(run, "and then", "it goes on")
        store.end_run(run)


def limited(*, out: Path, progress: Progress) -> None:
    """As a quota does it: a file may grow to 1 MB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    write(out=out, how="plain", progress=progress)


def test_a_limit_on_the_size_of_files_is_said(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="File too large"):
        run_unpinned(limited, {"out": tmp_path}, log=tmp_path / "worker.log")


# --- the state folder ------------------------------------------------------------------------------------------------


def test_a_read_only_state_folder_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only bind mount, which stops root as well."""
    (tmp_path / "kept").mkdir()
    with mounted(tmp_path / "store", "--bind", str(tmp_path / "kept")) as store:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(store)], check=True)
        monkeypatch.setenv("COLINEAR_HOME", str(store))
        done = colinear("study", "smoke")
    assert done.returncode == 2
    assert done.stderr == (
        f"colinear: COLINEAR_HOME: {store} cannot be written (Read-only file system); let it be written, or name "
        "another folder\n"
    )


def test_a_state_folder_on_a_full_disk_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=64k", "none") as disk:
        monkeypatch.setenv("COLINEAR_HOME", str(disk))
        with suppress(OSError):
            (disk / "rest").write_bytes(bytes(2**20))
        with pytest.raises(
            InputError, match=r"cannot be written \(No space left on device\); make room there, or name"
        ):
            check_writable()


def colinear(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: text for name, text in os.environ.items() if name != "PREFECT_HOME"}
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *words], cwd=ROOT, env=environment, text=True, capture_output=True,
        timeout=120, check=False,
    )  # fmt: skip


# --- clocks ----------------------------------------------------------------------------------------------------------


def test_a_leftover_of_the_future_is_kept_and_one_of_1970_goes(state: Path) -> None:
    """Dates say nothing where a clock jumped: what they cost is a checkpoint of a stage that nobody works on."""
    folder = home.subfolder("checkpoints")
    for name, date in (("a" * 64, time.time() + 10**9), ("b" * 64, 0.0), ("c" * 64, time.time())):
        (folder / name).mkdir()
        os.utime(folder / name, (date, date))
    assert drop_leftovers() == ["b" * 64]
    check_databases()  # there are none yet


JUMPS = """
import time
from tasks.core.clock import now
before, wall = now(), time.time()
print("begun", flush=True)
while abs(time.time() - wall) < 1000:
    time.sleep(0.05)
print(now() - before, time.time() - wall)
"""


@pytest.mark.parametrize("jump", [30, -30])
def test_durations_know_nothing_of_a_clock_that_jumps(tmp_path: Path, jump: int) -> None:
    clock = Clock(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", JUMPS], cwd=ROOT, env={**os.environ, **clock.environment}, text=True,
        stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        clock.jump(jump)
        took, passed = (float(word) for word in process.communicate(timeout=60)[0].split())
    assert 0 <= took < 30
    assert passed == pytest.approx(jump * DAY, abs=30)
