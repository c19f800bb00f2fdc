"""The devices that a plan is made for: those of this machine, or others that are named. Imports no torch."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from tasks.core.errors import InputError
from tasks.workers import cpu
from tasks.workers.devices import slots


@dataclass(frozen=True)
class Machine:
    """``count`` equal devices."""

    name: str
    kind: Literal["cpu", "gpu"]
    count: int
    memory: float
    """Bytes of one."""
    peak: float
    """Matrix products, FLOP/s of one: bfloat16 without sparsity on a GPU, float32 on a CPU that is not `light`."""
    bandwidth: float
    """Of its memory, bytes a second."""
    source: str
    """Where the peak is from."""
    local: bool = True
    """Whether these are this machine's devices."""
    light: bool = False
    """Whether it is a CPU on which this study's models are held and computed with in bfloat16."""
    exact: float = 0.0
    """FLOP/s of float32 products of a `light` CPU."""

    @property
    def devices(self) -> str:
        """``'8 x H100'``."""
        return f"{self.count} x {self.name}" if self.kind == "gpu" else self.name


GPUS: dict[str, tuple[float, float, float]] = {
    "B200": (180e9, 2250e12, 7.7e12),
    "H200": (141e9, 989e12, 4.8e12),
    "H100": (80e9, 989e12, 3.35e12),
    "A100-80GB": (80e9, 312e12, 2.04e12),
    "A100-40GB": (40e9, 312e12, 1.56e12),
    "L40S": (48e9, 362e12, 0.86e12),
    "RTX4090": (24e9, 165e12, 1.01e12),
    "L4": (24e9, 121e12, 0.30e12),
}
"""Memory (bytes), dense bfloat16 peak (FLOP/s) and bandwidth (bytes/s), from NVIDIA's data sheets (SXM where there is
a choice)."""

UNKNOWN_GPU = (100e12, 0.5e12)
"""Peak and bandwidth that are assumed of a GPU that is in no table."""
CPU_BANDWIDTH = 10e9
PROBE = 512
"""Side of the matrices whose product is timed on a CPU: 3 ms, short enough to find a busy core free for once."""
PROBES = 60


def named(text: str) -> Machine:
    """``H100``, ``8xH100``: devices that are not here. Raises `InputError`."""
    found = re.fullmatch(r"(?:(\d{1,4})\s*x\s*)?(.+)", text.strip(), re.IGNORECASE)
    count = int(found[1] or 1) if found else 0
    name = next((known for known in GPUS if found and known.lower() == found[2].lower()), None)
    if name is None or count < 1:
        raise InputError(f"--on {text}: expected a GPU, or a number of one like 8xH100; known: {', '.join(GPUS)}")
    memory, peak, bandwidth = GPUS[name]
    return Machine(name, "gpu", count, memory, peak, bandwidth, "NVIDIA's data sheet", local=False)


def here(*, measure: bool = True, light: bool = False) -> Machine:
    """This machine's devices, the smallest of them where they differ. A GPU's peak is its data sheet's; a CPU's is
    measured now, with one slot's threads (0.2 s, 5 s for a ``light`` one), unless ``measure`` is off: then it is 0.

    A CPU slot's memory is its share of what is free, or of what the control group of this process leaves free.
    """
    available = slots()
    if available[0].kind == "gpu":
        return _gpus([slot.index for slot in available])
    memory = _free() / len(available)
    name = f"{len(available)} CPU slot{'s' if len(available) > 1 else ''}, no GPU"
    threads = available[0].threads
    measured = cpu_peak(threads) if measure else 0.0
    found = Machine(name, "cpu", len(available), memory, measured, CPU_BANDWIDTH, "float32 products, measured now")
    if not light:
        return found
    peak = bfloat16_peak(threads) if measure else 0.0
    return replace(found, peak=peak, source="bfloat16 products, measured now", light=True, exact=measured)


@lru_cache(maxsize=1)
def _free() -> float:
    """Looked up once, so that all of a plan is about the same machine."""
    return cpu.free_memory()


@lru_cache(maxsize=2)
def bfloat16_peak(threads: int) -> float:
    """FLOP/s of torch's bfloat16 matrix product with ``threads`` threads, in a process of its own; 0 where it fails."""
    program = (
        "import sys, time, torch\n"
        "threads = int(sys.argv[1]); torch.set_num_threads(threads)\n"
        "now = time.process_time if threads == 1 else time.perf_counter\n"  # others' work does not count for one
        "a, best = torch.ones(1024, 1024).bfloat16(), 9e9\n"
        "for _ in range(20):\n    began = now(); a @ a; best = min(best, now() - began)\n"
        "print(2 * 1024**3 / best)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(threads)], capture_output=True, text=True, timeout=120)
    return float(done.stdout) if done.returncode == 0 else 0.0


def with_peak(machine: Machine, tflops: float | None) -> Machine:
    """``machine`` with a peak that the user has measured, TFLOP/s."""
    return machine if tflops is None else replace(machine, peak=tflops * 1e12, source="--tflops")


@lru_cache(maxsize=2)
def cpu_peak(threads: int) -> float:
    """FLOP/s of NumPy's float32 matrix product with ``threads`` threads: the best of `PROBES`."""
    import numpy as np
    from threadpoolctl import threadpool_limits

    a = np.ones((PROBE, PROBE), dtype=np.float32)
    best = float("inf")
    with threadpool_limits(threads):
        for _ in range(PROBES):
            began = time.perf_counter()
            _ = a @ a
            best = min(best, time.perf_counter() - began)
    return 2 * PROBE**3 / best


def _gpus(indices: list[str]) -> Machine:
    lines = _asked(indices)
    found = [read_gpu(line) for line in lines]
    smallest = min(found, key=lambda gpu: gpu.memory) if found else None
    if smallest is None:
        peak, bandwidth = UNKNOWN_GPU
        return Machine("unknown GPU", "gpu", len(indices), 0.0, peak, bandwidth, "assumed: nvidia-smi says nothing")
    return replace(smallest, count=len(indices))


def _asked(indices: list[str]) -> list[str]:
    """Lines ``name, memory in MiB`` of these GPUs, of all where nvidia-smi does not know the indices; or none."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    for words in ([*query, f"--id={','.join(indices)}"], query):
        try:
            answer = subprocess.run(words, capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return []
        if answer.returncode == 0:
            return answer.stdout.strip().splitlines()
    return []


def read_gpu(line: str) -> Machine:
    """One line of nvidia-smi, ``'NVIDIA H100 80GB HBM3, 81559'``, as a device. Its memory is what it says."""
    name, _, mebibytes = line.rpartition(",")
    memory = float(mebibytes) * 2**20
    plain = name.upper().replace(" ", "").replace("-", "")
    fits = [known for known in GPUS if known.upper().partition("-")[0] in plain]
    if not fits:
        peak, bandwidth = UNKNOWN_GPU
        return Machine(name.strip(), "gpu", 1, memory, peak, bandwidth, "assumed: in no table (--tflops sets it)")
    known = min(sorted(fits, key=lambda one: -len(one)), key=lambda one: abs(GPUS[one][0] - memory))
    _, peak, bandwidth = GPUS[known]
    return Machine(name.strip(), "gpu", 1, memory, peak, bandwidth, "NVIDIA's data sheet")
