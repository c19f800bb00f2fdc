"""Whole studies between real servers, each behind a proxy of ours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.living import ROOT, environment, free_port, until

METHODS = ("sft", "rft")
STEPS = 400
"""Of two trainings: time for a server to go."""

RUN_SECONDS = 900.0
PASSWORD = "hunter2secret"


def small_study(base: Path, folder: Path) -> list[str]:
    """The words of a command that trains two methods on rollouts of its own; nothing is pretrained."""
    rows = [
        {"prompt": f"{i} + {i}?", "completion": f"{2 * i + wrong}", "answer": str(2 * i), "reward": 1 - wrong}
        for i in range(24)
        for wrong in (0, 1)
    ]
    (folder / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "model.base": base, "methods": ",".join(METHODS), "replicates": "", "init_replicates": "", "train.steps": STEPS,
        "train.batch_size": 4, "evaluation.n": 4, "evaluation.max_new_tokens": 4, "paths.n": 4, "functions.n": 4,
    }  # fmt: skip
    words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    return ["study", "--rollouts", str(folder / "rollouts.jsonl"), *words]


@contextmanager
def prefect_running(folder: Path) -> Iterator[str]:
    """A Prefect server with its database in ``folder``; yields its address, without the ``/api``."""
    port = free_port()
    words = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    more = {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    with (folder / "prefect.log").open("a") as log:
        process = subprocess.Popen(
            words, cwd=folder, env=environment(folder, **more), stdout=log, stderr=log, start_new_session=True
        )
    uri = f"http://127.0.0.1:{port}"
    try:
        until(lambda: healthy(uri), 180)
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def healthy(uri: str) -> bool:
    """Whether a Prefect server answers."""
    try:
        return bool(urllib.request.urlopen(f"{uri}/api/health", timeout=5).status == 200)
    except OSError:
        return False


def ask(uri: str, path: str, body: dict[str, Any]) -> Any:
    """POST to Prefect's API."""
    request = urllib.request.Request(
        f"{uri}/api{path}", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.loads(reply.read())


@dataclass
class Run:
    """One start of the command, its output in a file."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def lines(self) -> list[str]:
        """What it has said so far."""
        return [line.strip() for line in self.log.read_text(errors="replace").splitlines()]

    def named(self, word: str) -> list[str]:
        """The lines that begin with ``word``, without it."""
        return [line.removeprefix(word).strip() for line in self.lines if line.startswith(word)]

    def wait_for(self, true: Callable[[], Any]) -> None:
        """Until it is true; fails where the command ends first."""
        until(lambda: true() or self.process.poll() is not None, RUN_SECONDS)
        assert true(), "\n".join(self.lines)

    def end(self, seconds: float = RUN_SECONDS) -> int:
        """Its exit code."""
        return self.process.wait(seconds)


@contextmanager
def studying(home: Path, out: Path, words: Sequence[str], **more: str) -> Iterator[Run]:
    """Start a study; whatever a failing test left of it is killed."""
    home.mkdir(parents=True, exist_ok=True)
    log = home / f"study-{len(list(home.glob('study-*.log')))}.log"
    settings = {"TMPDIR": str(home), **more}
    with log.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *words, "--out", str(out)], cwd=ROOT,
            env=environment(home, **settings), stdout=said, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    run = Run(process, log)
    try:
        yield run
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def trains(home: Path, steps: int) -> bool:
    """Whether every method's training has written so many steps."""
    logs = [path.read_text().count("\n") for path in (home / "staging").glob("*/output/log.jsonl")]
    return len(logs) >= len(METHODS) and min(logs) >= steps


def record(out: Path) -> dict[str, Any]:
    """study.json."""
    found: dict[str, Any] = json.loads((out / "study.json").read_text())
    return found


def adapters(store: Any, out: Path) -> dict[str, str]:
    """{training: digest of its artifact} of a finished study."""
    runs = {name: run for name, run in record(out)["mlflow"].items() if name.startswith("train ")}
    tags = {name: store.client.get_run(run).data.tags for name, run in runs.items()}
    sources = {name: store.client.get_run(tag.get("cache.source_run", runs[name])) for name, tag in tags.items()}
    return {name: run.data.tags["cache.manifest"] for name, run in sources.items()}


def leaks(folder: Path, secret: str = PASSWORD) -> list[str]:
    """The files below ``folder`` that hold a secret."""
    return [str(path) for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
