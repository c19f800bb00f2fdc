"""Runs the real command in a process of its own, with a state folder of its own, and reads what it left."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.homes import furnished

ROOT = Path(__file__).parents[2]


@dataclass
class Lab:
    """One state folder and the studies that were run in it."""

    home: Path
    fresh: bool = False
    """Whether the first run makes the databases itself."""

    def start(self, *words: str, out: str, command: str = "study") -> subprocess.Popen[str]:
        """``colinear COMMAND WORDS --out OUT`` as a process of its own group."""
        if not self.fresh and not self.home.exists():
            furnished(self.home)
        temporary = self.home.parent / "tmp"
        temporary.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "COLINEAR_HOME": str(self.home), "TMPDIR": str(temporary)}
        for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME", "COLINEAR_SLOTS"):
            environment.pop(name, None)
        return subprocess.Popen(
            [sys.executable, "-m", "flows.cli", command, *words, "--out", str(self.home.parent / out)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str, out: str, timeout: float = 600, command: str = "study") -> Study:
        """The same, to its end."""
        began = time.monotonic()
        process = self.start(*words, out=out, command=command)
        stdout, stderr = process.communicate(timeout=timeout)
        seconds = time.monotonic() - began
        return Study(self.home.parent / out, process.returncode, stdout, stderr, seconds)

    def prefect(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the embedded server's database, when no study is running."""
        with sqlite3.connect(self.home / "prefect" / "prefect.db") as database:
            return database.execute(query).fetchall()


@dataclass
class Study:
    """What one run of the command left."""

    folder: Path
    code: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def record(self) -> dict[str, Any]:
        """study.json."""
        record: dict[str, Any] = json.loads((self.folder / "study.json").read_text())
        return record

    def names(self, *, hit: bool) -> set[str]:
        """Names of the stages that were found in the cache, or were computed."""
        return {stage["name"] for stage in self.record["stages"] if stage["hit"] is hit}


def kill_after(process: subprocess.Popen[str], line: str, number: signal.Signals) -> list[str]:
    """Send a signal to the driver alone once a line of its output begins with ``line``; the lines until then."""
    seen = []
    assert process.stdout is not None
    for text in process.stdout:
        seen.append(text.strip())
        if text.strip().startswith(line):
            process.send_signal(number)
            break
    return seen
