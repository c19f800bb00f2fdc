"""Times `compare` on adapters of Qwen3-4B's true shapes, against merely reading their files and against the dense way.

    python -m tests.benchmarks.geometry [--adapters 6,28] [--layers 36] [--repeats 3] [--skip-dense]

Adapters are made with a seed (hidden 2560; q, k, v, o; rank 32; float32; 93 MB each) in a temporary folder; their bytes
are read once, so they are in the page cache. Every measurement is a fresh process, and the measurements take turns;
best and median are given. The DENSE way is timed on one module a projection and extrapolated: it decomposes the formed
matrix of every adapter and takes the inner product of every pair, and nothing else (no angles, no chance).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HIDDEN, RANK, ALPHA = 2560, 32, 64
SHAPES = {"q_proj": (4096, HIDDEN), "k_proj": (1024, HIDDEN), "v_proj": (1024, HIDDEN), "o_proj": (HIDDEN, 4096)}
"""(out, in) of Qwen3-4B's attention."""
MODULE = "model.layers.{}.self_attn.{}"
SECONDS = {6: 5.0, 28: 40.0}
"""Targets on two cores, by number of adapters."""
GIB = 1.5
"""Target for the peak memory of the largest of them."""


# --- the files -----------------------------------------------------------------------------------------------------


def make(folder: Path, adapters: int, layers: int, seed: int = 0) -> list[Path]:
    """``adapters`` PEFT directories: random factors, those of an initialisation (A) and of a short training (B)."""
    import numpy as np
    from safetensors.numpy import save_file

    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": list(SHAPES)}
    made = []
    for number in range(adapters):
        rng = np.random.default_rng((seed, number))
        tensors = {}
        for layer in range(layers):
            for projection, (out, n_in) in SHAPES.items():
                key = f"base_model.model.{MODULE.format(layer, projection)}"
                tensors[f"{key}.lora_A.weight"] = rng.uniform(-1, 1, (RANK, n_in)).astype(np.float32) / n_in**0.5
                tensors[f"{key}.lora_B.weight"] = 1e-3 * rng.standard_normal((out, RANK), dtype=np.float32)
        made.append(folder / f"adapter-{number:02}")
        made[-1].mkdir(parents=True)
        save_file(tensors, made[-1] / "adapter_model.safetensors")
        (made[-1] / "adapter_config.json").write_text(json.dumps(config))
    return made


def enough_room(folder: Path, adapters: int, layers: int) -> None:
    """Ends the program where the files would not fit."""
    size = adapters * layers * sum(RANK * (out + n_in) * 4 for out, n_in in SHAPES.values())
    free = shutil.disk_usage(folder).free
    if free < 1.2 * size:
        sys.exit(
            f"{folder}: {size / 1e9:.1f} GB of adapters do not fit into {free / 1e9:.1f} GB; set TMPDIR, or --layers"
        )


# --- what is measured, each in a process of its own ----------------------------------------------------------------


def read_only(folders: list[Path], workers: int) -> None:
    """Every tensor of every file into an array, and nothing more."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    from tasks.geometry.adapters.tensors import TensorFile

    def one(folder: Path) -> int:
        file = TensorFile(folder / "adapter_model.safetensors")
        return sum(
            np.fromfile(file.path, np.float32, entry.size // 4, offset=entry.offset).nbytes
            for entry in file.entries.values()
        )

    with ThreadPoolExecutor(workers) as pool:
        sum(pool.map(one, folders))


def ours(folders: list[Path], out: Path) -> None:
    """`compare` without the base, and its frames on disk."""
    from tasks.core.results import RunInfo
    from tasks.geometry.compare import Named, compare

    adapters = [Named(RunInfo(one.name, one.name, None, None, None), one, str(one)) for one in folders]
    compare(adapters).write(out)


def dense_module(folders: list[Path], projection: str) -> dict[str, float]:
    """Seconds of the dense way on one module: one SVD of the formed matrix, and one inner product of two of them."""
    import numpy as np

    from tasks.geometry.adapters.adapter import AdapterSource

    formed = []
    for folder in folders[:2]:
        update = AdapterSource(folder).read(MODULE.format(0, projection))
        formed.append(update.scale * update.B @ update.A)
    began = time.perf_counter()
    np.linalg.svd(formed[0], full_matrices=False)
    svd = time.perf_counter() - began
    began = time.perf_counter()
    np.vdot(formed[0], formed[1])
    return {"svd": svd, "inner": time.perf_counter() - began}


def inside(kind: str, folders: list[Path], argument: str) -> dict[str, float]:
    """Runs one measurement in this process: seconds, and the process's peak memory in GiB before and after."""
    import polars  # noqa: F401  (imports are not what is timed, and are told apart in the memory)
    import scipy.linalg  # noqa: F401
    import threadpoolctl  # noqa: F401

    import tasks.geometry.compare  # noqa: F401

    imported, began, worked = _peak(), time.perf_counter(), time.process_time()
    extra: dict[str, float] = {}
    if kind == "read":
        read_only(folders, int(argument))
    elif kind == "ours":
        with tempfile.TemporaryDirectory() as out:
            ours(folders, Path(out))
    elif kind == "dense":
        extra = dense_module(folders, argument)
    seconds, cpu = time.perf_counter() - began, time.process_time() - worked
    return {"seconds": seconds, "cpu": cpu, "imported": imported, "peak": _peak(), **extra}


def _peak() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


# --- a fresh process for each, in turn -----------------------------------------------------------------------------


def measured(kind: str, folders: list[Path], argument: str = "") -> dict[str, float]:
    """One measurement in a fresh interpreter. The start of the interpreter and the imports are not in its seconds."""
    command = [sys.executable, "-m", "tests.benchmarks.geometry", "--inside", kind, argument, *map(str, folders)]
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # the dense way has all cores as well
    environment = {name: value for name, value in os.environ.items() if name not in threads}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout))


def repeated(kinds: dict[str, Callable[[], dict[str, float]]], repeats: int) -> dict[str, list[dict[str, float]]]:
    """Every measurement ``repeats`` times, taking turns, so that a busy minute falls on all of them."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in kinds}
    for _ in range(repeats):
        for name, measure in kinds.items():
            found[name].append(measure())
    return found


def best_and_median(values: list[float]) -> tuple[float, float]:
    """(smallest, median)."""
    return min(values), statistics.median(values)


def dense_seconds(modules: dict[str, dict[str, float]], adapters: int, layers: int) -> float:
    """EXTRAPOLATED: every SVD of every adapter and every inner product of every pair, from one module a projection."""
    pairs = len(list(combinations(range(adapters), 2)))
    return layers * sum(adapters * one["svd"] + pairs * one["inner"] for one in modules.values())


def report(number: int, folders: list[Path], layers: int, repeats: int, dense: dict[str, Any]) -> bool:
    """Measures and prints one number of adapters; whether its targets hold."""
    found = repeated(
        {
            "read, 2 threads": lambda: measured("read", folders, "2"),
            "read, 1 thread": lambda: measured("read", folders, "1"),
            "compare": lambda: measured("ours", folders),
        },
        repeats,
    )
    size = sum((one / "adapter_model.safetensors").stat().st_size for one in folders) / 1e9
    pairs = number * (number - 1) // 2
    print(f"\n{number} adapters, {pairs} pairs, {layers * len(SHAPES)} modules, {size:.2f} GB, n = {repeats}")
    print(f"  {'':34}{'best':>10}{'median':>10}")
    seconds = {name: best_and_median([one["seconds"] for one in runs]) for name, runs in found.items()}
    for name, (best, median) in seconds.items():
        print(f"  {name + ', s':34}{best:10.2f}{median:10.2f}")
    best, median = seconds["compare"]
    for name in ("read, 2 threads", "read, 1 thread"):
        print(f"  {'compare : ' + name:34}{best / seconds[name][0]:10.1f}{median / seconds[name][1]:10.1f}")
    cpu = best_and_median([one["cpu"] for one in found["compare"]])
    print(f"  {'CPU seconds of compare, all threads':34}{cpu[0]:9.2f}{cpu[1]:10.2f}   (load stretches the wall time)")
    peaks = best_and_median([one["peak"] for one in found["compare"]])
    imports = statistics.median(one["imported"] for one in found["compare"])
    print(f"  {'peak memory of compare, GiB':34}{peaks[0]:10.2f}{peaks[1]:10.2f}   ({imports:.2f} after the imports)")
    if dense:
        slow = dense_seconds(dense, number, layers)
        print(f"  {'dense way, s (EXTRAPOLATED)':34}{slow:10.0f}{'':10}   compare is {slow / median:.0f} times as fast")
    held = True
    if number in SECONDS and layers == 36:
        held = median <= SECONDS[number] and (number < max(SECONDS) or peaks[1] <= GIB)
        memory = f", {GIB} GiB" if number == max(SECONDS) else ""
        print(f"  target {SECONDS[number]:.0f} s{memory} (median): {'holds' if held else 'MISSED'}")
    return held


def main() -> None:
    """Run the benchmark."""
    if sys.argv[1:2] == ["--inside"]:
        print(json.dumps(inside(sys.argv[2], [Path(one) for one in sys.argv[4:]], sys.argv[3])))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--adapters", default="6,28", help="numbers of adapters, with commas between")
    parser.add_argument("--layers", type=int, default=36)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--skip-dense", action="store_true")
    arguments = parser.parse_args()
    from tasks.workers.devices import describe_machine

    numbers = sorted(int(number) for number in arguments.adapters.split(","))
    print(f"{describe_machine()}; load average {os.getloadavg()[0]:.1f} at the start")
    with tempfile.TemporaryDirectory(prefix="geometry-") as temporary:
        enough_room(Path(temporary), max(numbers), arguments.layers)
        folders = make(Path(temporary), max(numbers), arguments.layers)
        dense = {}
        if not arguments.skip_dense:
            dense = {name: measured("dense", folders[:2], name) for name in SHAPES}
            parts = ", ".join(f"{name} {one['svd']:.1f} s" for name, one in dense.items())
            print(f"dense SVD of one formed matrix, all cores: {parts}")
        read_only(folders, 2)  # into the page cache
        results = [report(n, folders[:n], arguments.layers, arguments.repeats, dense) for n in numbers]
    print(f"\nload average {os.getloadavg()[0]:.1f} at the end")
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
