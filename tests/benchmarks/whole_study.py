"""Times a whole study from the command line, then each trainer against a bare PyTorch loop on the same batches.

    python tests/benchmarks/whole_study.py [--preset tiny] [--steps 20] [--repeats 3] [--out FILE.json]

Prints, and writes as JSON: wall seconds of the first run (everything computed) and of the second (everything cached);
seconds a stage; the orchestration share of the first run; tokens a second of every trainer as a ratio to the bare loop.
The share is given in two readings, because stages run side by side: ``idle``, the share of the wall time in which no
stage was working at all, and ``unused``, one less (sum of stage seconds x slots held) / (wall x slots).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def run_study(preset: str, home: Path, out: Path) -> tuple[float, dict[str, Any]]:
    """Wall seconds of one ``colinear study`` as a process, and its study.json."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "flows.cli", "study", preset, "--out", str(out)]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "COLINEAR_HOME": str(home)})
    return time.perf_counter() - began, json.loads((out / "study.json").read_text())


def busy_seconds(stages: list[dict[str, Any]], ends: dict[str, float]) -> float:
    """Length of the union of the stages' working intervals; each ends when its MLflow run did."""
    spans = sorted((ends[stage["name"]] - stage["seconds"], ends[stage["name"]]) for stage in stages)
    total, reached = 0.0, 0.0
    for start, end in spans:
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def stage_report(wall: float, study: dict[str, Any], slots: int) -> dict[str, Any]:
    """Seconds by kind of stage and the two readings of the orchestration share."""
    stages = [stage for stage in study["stages"] if not stage["hit"]]
    ends = {stage["name"]: stage["started"] + stage["total_seconds"] for stage in stages}
    kinds: dict[str, float] = {}
    for stage in stages:
        kinds[stage["stage"]] = kinds.get(stage["stage"], 0.0) + stage["seconds"]
    held = sum(stage["seconds"] * (min(2, slots) if stage["stage"] == "pretrain" else 1) for stage in stages)
    return {
        "seconds_by_stage": {name: round(value, 1) for name, value in kinds.items()},
        "idle": round(1 - busy_seconds(stages, ends) / wall, 3),
        "unused": round(1 - held / (wall * slots), 3),
    }


def trainer_report(home: Path, study: dict[str, Any], steps: int, repeats: int) -> dict[str, Any]:
    """Tokens a second of every trainer and of the bare loop, in turn, ``repeats`` times; the median ratio."""
    os.environ["COLINEAR_HOME"] = str(home)
    import torch

    torch.set_num_threads(1)
    from tests.benchmarks.trainers import compare

    return compare(study, steps, repeats)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--home", type=Path, help="a state folder to keep (default: a temporary one)")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    from tasks.workers.devices import describe_machine, slots

    with tempfile.TemporaryDirectory() as temporary:
        home = (arguments.home or Path(temporary) / "home").absolute()
        first, study = run_study(arguments.preset, home, Path(temporary) / "first")
        second, again = run_study(arguments.preset, home, Path(temporary) / "second")
        report = {
            "machine": describe_machine(),
            "preset": arguments.preset,
            "first_run_seconds": round(first, 1),
            "second_run_seconds": round(second, 1),
            "second_run_computed": sum(not stage["hit"] for stage in again["stages"]),
            **stage_report(first, study, len(slots())),
            "trainers": trainer_report(home, study, arguments.steps, arguments.repeats),
        }
    text = json.dumps(report, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
