"""One study, killed and started again until it is finished: every kill at a seeded random moment of a given stage."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.killable import Killable
from tests.faults.processes import Process, living, until

ROOT = Path(__file__).parents[2]
GONE_SECONDS = 60.0
"""A fork server needs 1.6 s of CPU to end: a few seconds on free cores, 25 were seen at a load of 60 on two."""
RUN_SECONDS = 1800.0
WORDS = ("study", "smoke", "--set", "train.checkpoint_steps=3")  # of 10 steps: a training that is killed goes on

FATAL = ("driver", "group")
STAGES = {  # in a study's order: the most seconds after its beginning, and how many kills there
    "boot": (12.0, 2),
    "pretrain": (15.0, 1),
    "rollouts": (3.0, 1),
    "train": (4.0, 3),
    "evaluate": (4.0, 1),
    "path end": (1.0, 1),
    "path": (3.0, 2),
    "functions": (2.0, 1),
    "report": (4.0, 1),
}
WITHOUT_WORKER = ("boot", "report")
AFTER = {
    "pretrain": "rollouts", "rollouts": "train", "train": "path end", "evaluate": "functions", "path end": "path",
    "path": "functions", "functions": "accuracy",
}  # fmt: skip
"""Of what a line is there, when a stage is over."""


@dataclass(frozen=True)
class Fault:
    """Kill ``kind`` so many seconds after a run is first seen at ``stage`` or past it; a server is ``away`` as long."""

    kind: str
    stage: str
    delay: float
    away: float = 0.0


@dataclass
class Run:
    """One start of the command, its output in a file: what outlives it must not hold a pipe that we read."""

    process: subprocess.Popen[bytes]
    log: Path
    began: float = field(default_factory=time.monotonic)
    boot: float = 0.0
    """Seconds until the first stage was found or done."""

    def __post_init__(self) -> None:
        threading.Thread(target=self._time_boot, daemon=True).start()

    def _time_boot(self) -> None:
        self.boot = until(lambda: self.ended or bool(self.names("cached") or self.names("done")), RUN_SECONDS)

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    @property
    def age(self) -> float:
        return time.monotonic() - self.began

    @property
    def lines(self) -> list[str]:
        return self.log.read_text(errors="replace").splitlines()

    def names(self, word: str) -> list[str]:
        """Names of the stages of which a line says ``word`` (done, cached, failed)."""
        parted = [re.split(r"\s{2,}", line.strip()) for line in self.lines]
        return [parts[1] for parts in parted if parts[0] == word and len(parts) > 1]

    @property
    def said(self) -> str:
        """Its last words: of a failure, what went wrong."""
        return next(
            (line for line in reversed(self.lines) if line.startswith("colinear: ") and "run the" not in line), ""
        )


@dataclass
class Kill:
    """A fault that was done. ``lost``: seconds of the longest work that was thrown away."""

    fault: Fault
    struck: str
    moment: float
    lost: float = 0.0
    gone: float = 0.0
    """Seconds until every process of that run had ended, after it had."""
    run: Run | None = None


@dataclass(frozen=True)
class Kinds:
    """What there is to kill: each comes as often as it stands here before it comes again. ``idle``: without workers."""

    working: Sequence[str]
    idle: Sequence[str]
    away: tuple[float, float] = (0.0, 0.0)


EMBEDDED = Kinds(
    ["driver", "driver", "group", "worker", "worker", "worker", "prefect", "fork server"], ["driver", "driver", "group"]
)
"""A study that has its own Prefect server and an MLflow database."""

APART = Kinds([*["mlflow server", "prefect server"] * 3, "driver"], ["mlflow server", "prefect server"], (1.0, 8.0))
"""A study that works with two servers; each is started again so many seconds after its kill."""


def plan(seed: int, kinds: Kinds, without: Sequence[str] = ()) -> list[Fault]:
    """Faults in the order of a study's stages but those ``without``, all drawn from one seed."""
    draw = random.Random(seed)
    decks: dict[bool, list[str]] = {True: [], False: []}
    faults = []
    for stage, (most, times) in STAGES.items():
        deck = decks[stage in WITHOUT_WORKER]
        for _ in range(0 if stage in without else times):
            if not deck:
                fresh = kinds.idle if stage in WITHOUT_WORKER else kinds.working
                deck += draw.sample(fresh, len(fresh))
            faults.append(Fault(deck.pop(), stage, draw.uniform(0, most), draw.uniform(*kinds.away)))
    return faults


class Chain:
    """One state folder; the same command again and again."""

    def __init__(self, folder: Path, seed: int, environment: Mapping[str, str] | None = None) -> None:
        self.folder, self.home, self.out = folder, folder / "home", folder / "out"
        self.draw = random.Random(seed)
        self.kills: list[Kill] = []
        self.runs: list[Run] = []
        self.servers: dict[str, Killable] = {}
        (folder / "tmp").mkdir(parents=True, exist_ok=True)
        self.environment = {**os.environ, "COLINEAR_HOME": str(self.home), "TMPDIR": str(folder / "tmp")}
        for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME", "COLINEAR_SLOTS"):
            self.environment.pop(name, None)
        self.environment |= environment or {}

    def start(self) -> Run:
        for server in self.servers.values():
            server.wait()
        log = self.folder / f"run-{len(self.runs)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "flows.cli", *WORDS, "--out", str(self.out)], cwd=ROOT, env=self.environment,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        self.runs.append(Run(process, log))
        return self.runs[-1]

    def finish(self, faults: list[Fault]) -> Run:
        """Do the faults, and start again after each run that ends before its work is done; the run that finished.

        A study that is finished before its last fault needs no further one.
        """
        left = list(faults)
        while True:
            run, first = self.start(), len(self.kills)
            while not run.ended and left:
                if not self._strike(run, left[0]):
                    break
                if left.pop(0).kind in FATAL:
                    break
            until(lambda run=run: run.ended, RUN_SECONDS)
            assert run.ended, f"still running after {run.age:.0f} s: {run.lines[-5:]}"
            gone = until(lambda: not living(self.home), GONE_SECONDS)
            assert not living(self.home), [process.command for process in living(self.home)]
            for kill in self.kills[first:]:
                kill.run, kill.gone = run, gone
            if run.process.returncode == 0:
                return run
            refused = [2] if self.servers else []  # a server that is away when a study begins
            assert run.process.returncode in (1, -signal.SIGKILL, *refused), (run.process.returncode, run.lines)
            assert len(self.runs) < 3 * len(faults) + 3, run.lines

    def _strike(self, run: Run, fault: Fault) -> bool:
        """Wait for the fault's moment and do it; False where the run has ended before."""
        delay = fault.delay
        while not run.ended:
            until(lambda: run.ended or self._at(run, fault.stage), RUN_SECONDS)
            until(lambda: run.ended, delay)
            delay = 0.2  # where there is nothing to kill just now
            found = living(self.home)
            victims = self._victims(run, fault, found)
            if run.ended or not victims:
                continue
            working = [process for process in found if process.role == "worker"]
            self.kills.append(Kill(fault, ", ".join(sorted({process.stage for process in working})), run.age))
            if fault.kind in self.servers:
                self.servers[fault.kind].kill(fault.away)
                return True
            dying = working if fault.kind in (*FATAL, "fork server") else victims
            self.kills[-1].lost = max((process.age for process in dying if process.role == "worker"), default=0.0)
            try:
                (os.killpg if fault.kind == "group" else os.kill)(victims[0].pid, signal.SIGKILL)
            except ProcessLookupError:  # it ended by itself in this very moment
                self.kills.pop()
                continue
            return True
        return False

    def _at(self, run: Run, stage: str) -> bool:
        if stage == "boot":
            return True
        if any(process.stage == stage for process in living(self.home)):
            return True
        told = run.names("done") + run.names("cached")
        return any(name.startswith("accuracy" if stage == "report" else AFTER[stage]) for name in told)

    def _victims(self, run: Run, fault: Fault, found: list[Process]) -> list[Process]:
        if fault.kind in self.servers or fault.kind in FATAL:
            return [Process(run.process.pid, "driver", "", run.age, "")]
        those = [process for process in found if process.role == fault.kind]
        if fault.kind == "worker":
            those = [process for process in those if process.stage == fault.stage] or those
        return [self.draw.choice(those)] if those else []
