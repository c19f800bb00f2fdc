"""Device slots: which there are, and how real processes share them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tasks.core import home
from tasks.core.errors import InputError
from tasks.workers import devices
from tasks.workers.devices import Slot, slots, take

ROOT = Path(__file__).parents[3]
SOON = 30.0  # seconds: generous on a busy machine, far below what the workers would take by themselves

pytestmark = pytest.mark.usefixtures("state")


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    """A real process that shares this test's slots."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


# --- which slots there are -------------------------------------------------------------------------------------------


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    return 8


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [
        ("0,1", ["0", "1"]),
        ("3", ["3"]),
        (" 0, 1 ", ["0", "1"]),  # another process that says "0,1" must meet the same locks
        ("0,0", ["0"]),  # twice the same lock could never be taken
        ("1,-1,0", ["1"]),  # CUDA ignores what follows a -1
        ("GPU-8932f937", ["GPU-8932f937"]),
        ("0,", ["0"]),
    ],
)
def test_a_slot_is_a_visible_gpu(monkeypatch: pytest.MonkeyPatch, cores: int, visible: str, gpus: list[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setenv("COLINEAR_SLOTS", "5")  # is for machines without GPUs
    assert slots() == tuple(Slot("gpu", gpu, cores // len(gpus)) for gpu in gpus)


@pytest.mark.parametrize("visible", ["", " ", "-1", "-1,0"])
def test_hidden_gpus_are_not_used(monkeypatch: pytest.MonkeyPatch, cores: int, visible: str) -> None:
    monkeypatch.setattr(devices, "DEV", ROOT)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert slots() == tuple(Slot("cpu", str(index), 1) for index in range(8))


def test_without_the_variable_the_device_files_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cores: int
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "DEV", tmp_path)
    assert [slot.kind for slot in slots()] == ["cpu"] * 8
    for name in ("nvidia10", "nvidia2", "nvidia0", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    slots.cache_clear()
    assert [(slot.kind, slot.index) for slot in slots()] == [("gpu", "0"), ("gpu", "1"), ("gpu", "2")]
    assert devices.describe_machine().endswith("GiB, 3 GPU")


@pytest.mark.parametrize(("text", "threads"), [("1", 8), ("3", 2), ("8", 1), ("20", 1)])
def test_the_number_of_cpu_slots_can_be_set(
    monkeypatch: pytest.MonkeyPatch, cores: int, text: str, threads: int
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("COLINEAR_SLOTS", text)
    assert slots() == tuple(Slot("cpu", str(index), threads) for index in range(int(text)))
    assert devices.describe_machine().startswith("8 CPU cores, ")
    assert devices.describe_machine().endswith("no GPU")


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "²", " 2", "1e3"])
def test_a_bad_number_of_slots_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("COLINEAR_SLOTS", text)
    with pytest.raises(InputError, match=r"^COLINEAR_SLOTS: expected a whole number of at least 1, got '"):
        slots()


def test_on_a_ray_node_the_assigned_gpu_is_the_only_slot(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cores: int
) -> None:
    """One process serves tasks of several GPUs and of none, one after another."""
    monkeypatch.setattr(devices, "DEV", tmp_path)
    monkeypatch.setattr(devices, "_host", "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")  # so that it is as it was after the test
    on_cores = tuple(Slot("cpu", str(index), 1) for index in range(8))
    for name in ("nvidia0", "nvidia1"):
        (tmp_path / name).touch()
    for assigned in ("0", "1", "GPU-5f2a"):
        devices.use_assigned([assigned])
        assert slots() == (Slot("gpu", assigned, 8),)
    devices.use_assigned([])
    assert slots() == on_cores
    for name in ("nvidia0", "nvidia1"):
        (tmp_path / name).unlink()
    devices.use_assigned(["0"])  # counted by Ray, not there
    assert slots() == on_cores


# --- taking them -----------------------------------------------------------------------------------------------------


@pytest.fixture
def two_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("COLINEAR_SLOTS", "2")


HOLD = """
import sys
from tasks.workers.devices import take
with take(1) as held:
    print(held[0].index, flush=True)
    sys.stdin.readline()
"""


@pytest.mark.usefixtures("two_slots")
def test_a_third_process_waits_until_a_holder_is_killed() -> None:
    first, second = start(HOLD), start(HOLD)
    held = [line(first), line(second)]
    assert sorted(held) == ["0", "1"]
    taken: list[str] = []

    def third() -> None:
        with take(1) as got:
            taken.append(got[0].index)

    waiting = threading.Thread(target=third)
    waiting.start()
    waiting.join(0.3)
    assert taken == []
    first.kill()  # SIGKILL: only the kernel can give the slot back
    waiting.join(SOON)
    assert taken == [held[0]]
    first.communicate()
    assert second.communicate("\n")[1] == ""


# Holds what it takes by creating a file that must not be there: any overlap of two holders is an error.
ROUNDS = """
import random, sys, time
from pathlib import Path
from tasks.workers.devices import take
folder, seed = Path(sys.argv[1]), int(sys.argv[2])
draw = random.Random(seed)
for _ in range(15):
    count = draw.choice([1, 1, 2])
    with take(count) as held:
        assert len({slot.index for slot in held}) == count
        for slot in held:
            (folder / slot.index).touch(exist_ok=False)
        time.sleep(0.01 * draw.random())
        for slot in held:
            (folder / slot.index).unlink()
print("done")
"""


@pytest.mark.usefixtures("two_slots")
def test_no_slot_is_in_two_hands_and_takers_of_several_do_not_lock_each_other_up(tmp_path: Path) -> None:
    (tmp_path / "held").mkdir()
    processes = [start(ROUNDS, tmp_path / "held", seed) for seed in range(3)]
    answers = [process.communicate(timeout=2 * SOON) for process in processes]
    assert [said for said, _ in answers] == ["done\n"] * 3, answers


def test_takers_of_several_wait_for_slots_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4")
    got: list[list[str]] = []

    def other() -> None:
        with take(2) as held:
            got.append([slot.index for slot in held])

    with take(2) as held:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(SOON)
        assert got == [["2", "3"]]
        assert [slot.index for slot in held] == ["0", "1"]


@pytest.mark.usefixtures("two_slots")
def test_more_slots_than_there_are_means_all() -> None:
    with take(5) as held:
        assert [slot.index for slot in held] == ["0", "1"]
    with pytest.raises(KeyError), take(2):
        raise KeyError
    with take(2) as again:  # given back although the body failed
        assert len(again) == 2


# --- whose they are --------------------------------------------------------------------------------------------------


def test_slots_are_the_machines_whatever_the_state_folder(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = home.machine_folder()
    assert not folder.is_relative_to(state)
    assert folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("COLINEAR_HOME", str(state / "another"))
    assert home.machine_folder() == folder


def test_takers_of_one_process_are_served_in_the_order_they_came(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLINEAR_SLOTS", "1")
    devices.slots.cache_clear()
    served: list[int] = []

    def taker(number: int) -> None:
        with devices.take():
            served.append(number)

    with devices.take():
        threads = [threading.Thread(target=taker, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
            time.sleep(0.01)
    for thread in threads:
        thread.join()
    assert served == list(range(8))
