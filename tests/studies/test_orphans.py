"""What a command started ends when the command is killed, and only then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.lab.living import left_behind, until

ROOT = Path(__file__).parents[2]

COMMAND = """
import subprocess, sys
from flows.servers import orphans

orphans.prepare()
stubborn = "trap '' TERM; sleep 100 & while true; do sleep 1; done"
group = subprocess.Popen(["sh", "-c", stubborn], start_new_session=True)
orphans.watch(group.pid, group=True)
alone = subprocess.Popen(["sleep", "100"], start_new_session=True)
orphans.watch(alone.pid)
kept = subprocess.Popen(["sleep", "100"], start_new_session=True)
orphans.watch(kept.pid)
orphans.forget(kept.pid)
print(group.pid, alone.pid, kept.pid, orphans._watcher().pid, flush=True)
sys.stdin.readline()
orphans.forget(alone.pid)
"""


def start(home: Path) -> tuple[subprocess.Popen[str], list[int]]:
    command = subprocess.Popen(
        [sys.executable, "-c", COMMAND], cwd=ROOT, env={**os.environ, "COLINEAR_HOME": str(home)}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert command.stdout is not None
    return command, [int(pid) for pid in command.stdout.readline().split()]


def test_a_killed_command_leaves_nothing_that_it_watched(tmp_path: Path) -> None:
    """Killed with its whole group. Also what ignores SIGTERM ends, with its children; not what was to be forgotten."""
    command, (group, alone, kept, watcher) = start(tmp_path)
    os.killpg(command.pid, signal.SIGKILL)
    command.wait()
    until(lambda: not alive(alone), 30)
    assert alive(kept)
    until(lambda: not alive(group) and not alive(watcher), 30)
    os.kill(kept, signal.SIGKILL)
    until(lambda: not left_behind(tmp_path), 30)


def test_a_watcher_that_somebody_ended_is_no_harm(tmp_path: Path) -> None:
    command, (group, alone, kept, watcher) = start(tmp_path)
    for end, pid in ((os.kill, watcher), (os.killpg, group), (os.kill, alone), (os.kill, kept)):
        end(pid, signal.SIGKILL)
    _, stderr = command.communicate("\n", timeout=20)
    assert (command.returncode, stderr) == (0, "")


def test_a_number_that_is_another_process_by_now_gets_no_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.servers import orphans

    other = subprocess.Popen(["sleep", "100"])
    try:
        assert not orphans._signal(other.pid, False, "12", signal.SIGKILL)
        time.sleep(0.1)
        assert other.poll() is None
        assert orphans._signal(other.pid, False, orphans._born(other.pid), signal.SIGKILL)
        assert other.wait(5) == -signal.SIGKILL
    finally:
        other.kill()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
