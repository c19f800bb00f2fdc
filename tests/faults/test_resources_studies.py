"""Whole studies that run out of memory, whose workers stand still, or whose clock jumps; then they go on."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.faults import small
from tests.faults.clocks import Clock
from tests.faults.disks import mounted
from tests.faults.numbers import SHORT, sums, write_rows
from tests.faults.small import check_same, done, words
from tests.lab.living import left_behind
from tests.lab.study_runs import ROOT, Lab, Study, kill_after
from tests.real.fetch import FOLDER, MODELS

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory, base_model: Path) -> list[str]:
    changes = ("methods=sft,rft", "paths.n=0", "functions.n=0", "train.steps=60", "train.checkpoint_steps=5")
    return words(tmp_path_factory.mktemp("given"), base_model, *changes)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, given: list[str]) -> Study:
    return done(Lab(tmp_path_factory.mktemp("undisturbed") / "home"), given, "out")


def check_said(study: Study, *, code: int = 1, way_on: str = "") -> str:
    """The failure's lines: short, and no traceback; returns the first."""
    assert study.code == code, (study.stdout, study.stderr)
    lines = study.stderr.strip().splitlines()
    assert "Traceback" not in study.stderr
    assert len(lines) == 2, study.stderr
    assert all(line.startswith("colinear: ") and len(line) < 700 for line in lines), study.stderr
    assert lines[1].endswith(f"{way_on}; finished stages are kept: run the same command again to go on")
    return lines[0]


# --- memory ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_memory(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A memory cgroup (version 1 or 2) for the test's processes; skips where none can be made."""
    root = Path("/sys/fs/cgroup/memory") if Path("/sys/fs/cgroup/memory").is_dir() else Path("/sys/fs/cgroup")
    group = root / f"colinear-test-{os.getpid()}"
    try:
        group.mkdir()
        limit = group / ("memory.limit_in_bytes" if "memory/" in str(group) else "memory.max")
        limit.write_text(str(request.param))
    except OSError as error:
        with suppress(OSError):
            group.rmdir()
        pytest.skip(f"no memory cgroup can be made here: {error}")
    yield group
    deadline = time.monotonic() + 30
    while (group / "cgroup.procs").read_text().split() and time.monotonic() < deadline:
        time.sleep(0.2)
    group.rmdir()


@pytest.mark.parametrize("small_memory", [1_100_000_000], indirect=True)
def test_a_machine_with_too_little_memory_says_so_and_a_larger_one_goes_on(
    tmp_path: Path, given: list[str], undisturbed: Study, small_memory: Path
) -> None:
    lab = Lab(tmp_path / "home")
    process = lab.start(*given, out="out")
    (small_memory / "cgroup.procs").write_text(str(process.pid))  # before its children are there
    stdout, stderr = process.communicate(timeout=small.SECONDS)
    print(process.returncode, stderr)
    said = check_said(Study(tmp_path / "out", process.returncode, stdout, stderr, 0.0))
    assert "the worker process died (signal SIGKILL, which the system sends where memory runs out)" in said
    again = done(lab, given, "out")
    check_same(again, undisturbed)


TAKES_MEMORY = """
import pathlib, sys, time
from tasks.workers.cpu import ended_for_memory
group, room, begun = (pathlib.Path(word) for word in sys.argv[1:])
(group / "cgroup.procs").write_text("0")  # what a process writes to a tmpfs counts for its group
while not list(begun.glob("train-*.log")):
    time.sleep(0.2)
first, held = ended_for_memory(), 0
used = group / ("memory.current" if (group / "memory.current").exists() else "memory.usage_in_bytes")
while ended_for_memory() == first:
    if int(used.read_text()) < LIMIT - 60_000_000:  # whoever asks for more than that is killed: not this process
        (room / str(held)).write_bytes(bytes(40_000_000))
        held += 1
    time.sleep(0.3)
for one in range(held - 8, held):
    (room / str(one)).unlink(missing_ok=True)
"""


@pytest.mark.parametrize("small_memory", [4_500_000_000], indirect=True)
def test_a_training_that_is_killed_for_memory_goes_on_with_smaller_passes(tmp_path: Path, small_memory: Path) -> None:
    """Something else takes memory while SmolLM2 trains, until the kernel kills the worker: a real kill."""
    model = FOLDER / MODELS["smollm2"].file
    if not model.is_file():
        pytest.skip(f"{model} is not there: make real-models")
    rows, words = tmp_path / "rollouts.jsonl", "He counts them one by one. " * 30
    write_rows(rows, [{**row, "completion": words + row["completion"]} for row in sums(range(24), 1, 0, 1, 0)])
    lab, room = Lab(tmp_path / "home"), Path(tempfile.mkdtemp(dir="/dev/shm"))
    script = TAKES_MEMORY.replace("LIMIT", "4_500_000_000")
    arguments = [sys.executable, "-c", script, str(small_memory), str(room), str(lab.home / "logs")]
    settings = [*SHORT, f"model.base={model}", "methods=sft", "replicates=", "init_replicates=", "train.steps=2",
                "train.batch_size=8", "paths.n=0", "functions.n=0", "geometry.activations=0", "evaluation.n=2",
                "evaluation.max_new_tokens=8", "geometry.base_measures=false"]  # fmt: skip
    process = lab.start("--rollouts", str(rows), *(word for one in settings for word in ("--set", one)), out="out")
    (small_memory / "cgroup.procs").write_text(str(process.pid))
    taker = subprocess.Popen(arguments, cwd=ROOT)
    try:
        stdout, stderr = process.communicate(timeout=small.SECONDS)
    finally:
        taker.kill()
        taker.wait()
        shutil.rmtree(room)
    print(stdout, stderr)
    assert process.returncode == 0, stderr
    assert "because memory ran out; passes of half the size" in stdout
    said = Study(tmp_path / "out", 0, stdout, stderr, 0.0).record
    assert "the system killed the worker because memory ran out" in json.dumps(said)


# --- disks -----------------------------------------------------------------------------------------------------------


def fill(file: Path, process: subprocess.Popen[str]) -> None:
    """Take what room there is on a disk, again and again, until the process has ended."""
    with file.open("ab", buffering=0) as rest:
        while process.poll() is None:
            try:
                rest.write(bytes(4096))
            except OSError:
                time.sleep(0.01)


def test_a_state_folder_that_runs_full_ends_the_study_at_once_and_the_same_command_goes_on(
    tmp_path: Path, given: list[str], undisturbed: Study
) -> None:
    """Prefect's database is on that disk too: its server answers 500, and nobody waits for it."""
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=300m", "none") as disk:
        lab = Lab(disk / "home")
        process = lab.start(*given, out="out")
        kill_after(process, "done    grade", signal.SIGCONT)
        filling = threading.Thread(target=fill, args=(disk / "rest", process))
        filling.start()
        began = time.monotonic()
        stdout, stderr = process.communicate(timeout=small.SECONDS)
        filling.join()
        print(f"ended after {time.monotonic() - began:.1f} s: {stderr}")
        assert time.monotonic() - began < 90
        said = check_said(
            Study(disk / "out", process.returncode, stdout, stderr, 0.0), way_on="(No space left on device)"
        )
        assert re.search(rf"the disk of {disk}/home\S* is full: make room, then run the same command again", said), said
        assert not left_behind(lab.home)
        (disk / "rest").unlink()
        check_same(done(lab, given, "out"), undisturbed)


# --- hangs -----------------------------------------------------------------------------------------------------------


def workers(group: int) -> list[int]:
    """The processes of a study that compute: children of its fork server that have its log open."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.getpgid(int(folder.name)) == group and "/logs/" in os.readlink(folder / "fd" / "1"):
                found.append(int(folder.name))
    return found


def test_a_training_that_stands_still_is_ended_and_the_same_command_goes_on(
    tmp_path: Path, given: list[str], undisturbed: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLINEAR_HANG_SECONDS", "40")
    lab = Lab(tmp_path / "home")
    process = lab.start(*given, out="out")
    kill_after(process, "done    grade", signal.SIGCONT)
    stopped: list[int] = []
    deadline = time.monotonic() + 120
    while not stopped and time.monotonic() < deadline:
        stopped = [pid for pid in workers(process.pid) if list((lab.home / "checkpoints").glob("*/checkpoint-*"))][:1]
        time.sleep(0.02)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    stdout, stderr = process.communicate(timeout=small.SECONDS)
    said = check_said(Study(tmp_path / "out", process.returncode, stdout, stderr, 0.0))
    assert re.match(
        r"colinear: train \w+ seed=0 lr=\S+: the worker process hung: no sign of life for 4[0-9] s, so it was ended; "
        r"where it stood is in \S+/logs/train-[0-9a-f]{12}\.log; if it was only slow, set COLINEAR_HANG_SECONDS higher",
        said,
    ), said
    assert not left_behind(lab.home)
    again = done(lab, given, "out")
    check_same(again, undisturbed)


# --- clocks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [40, -40])
def test_a_clock_that_jumps_changes_no_number_and_no_duration(
    tmp_path: Path, given: list[str], undisturbed: Study, monkeypatch: pytest.MonkeyPatch, jump: int
) -> None:
    clock = Clock(tmp_path)
    for name, text in clock.environment.items():
        monkeypatch.setenv(name, text)
    lab = Lab(tmp_path / "home")
    began = time.monotonic()
    process = lab.start(*given, out="out")
    kill_after(process, "done    rollouts", signal.SIGCONT)
    clock.jump(jump)
    stdout, stderr = process.communicate(timeout=small.SECONDS)
    took = time.monotonic() - began
    study = Study(tmp_path / "out", process.returncode, stdout, stderr, took)
    assert study.code == 0, study.stderr
    check_same(study, undisturbed)
    record = study.record
    assert 0 < record["wall_seconds"] <= took
    for stage in record["stages"]:
        assert 0 <= stage["started"] <= took
        assert 0 <= stage["seconds"] <= took
    for name in clock.environment:
        monkeypatch.delenv(name)
    again = done(lab, given, "again")  # on a machine whose clock is right: dates of the other time are no matter
    assert again.names(hit=False) == set()
