"""transformers against vLLM on the same prompts: tokens a second, and how far they agree.

    python -m tests.benchmarks.engines [--model DIR] [--requests 512] [--tokens 64] [--repeats 3] [--precision float32]

Without a model it is a random Qwen3 of the default study's shape (3 layers, width 128, heads of 32). Half of the
requests go to an adapter of rank 8, half to the base. Both engines stay loaded and take turns; loading is told apart.
Every process has as many threads as $OMP_NUM_THREADS says. A GPU is used where there is one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tasks.engines.interface import Completion, Engine, Request, Sampling
from tasks.engines.transformers import TransformersEngine
from tasks.engines.vllm import VllmEngine
from tasks.workers.devices import describe_machine
from tests.lab.vllm_models import ask, make_adapter, make_base, prompt

DEFAULT_SHAPE = {"hidden": 128, "layers": 3, "heads": 4, "kv_heads": 2, "intermediate": 512}


def tokens(found: dict[str, Completion]) -> int:
    return sum(len(one.ids or ()) for one in found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--requests", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precision", default="float32", help="of vLLM; transformers has float32 with adapters")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        base = options.model or make_base(Path(folder) / "base", **DEFAULT_SHAPE)
        adapters = {"lora": make_adapter(base, Path(folder) / "lora", 0, r=8)}
        names = [None, "lora"]
        asked = [Request(f"r{i}", "", prompt(i), i, names[i % 2]) for i in range(options.requests)]
        made: dict[str, Any] = {
            "transformers": TransformersEngine(base, adapters=adapters, batch_size=256),
            "vllm": VllmEngine(base, adapters=adapters, batch_size=256, precision=options.precision),
        }
        engines: dict[str, Engine] = {}
        loading = {}
        for name, engine in made.items():
            began = time.perf_counter()
            engines[name] = stack.enter_context(engine)
            loading[name] = time.perf_counter() - began
        rates: dict[tuple[str, str], list[float]] = {}
        found: dict[tuple[str, str], dict[str, Completion]] = {}
        for way, temperature in (("greedy", None), ("sampled", 1.0)):
            for _ in range(options.repeats):
                for name, engine in engines.items():
                    began = time.perf_counter()
                    found[name, way] = ask(engine, asked, Sampling(options.tokens, temperature, logprobs=True))
                    seconds = time.perf_counter() - began
                    rates.setdefault((name, way), []).append(tokens(found[name, way]) / seconds)
    load = f"{os.environ.get('OMP_NUM_THREADS', 'all')} threads a process; load {os.getloadavg()[0]:.1f}"
    print(f"{describe_machine()}, {load}; {options.requests} requests, n = {options.repeats}, medians")
    print(f"{'engine':14}{'load s':>8}{'greedy tok/s':>14}{'sampled tok/s':>15}")
    for name in engines:
        greedy, sampled = (statistics.median(rates[name, way]) for way in ("greedy", "sampled"))
        print(f"{name:14}{loading[name]:8.1f}{greedy:14.0f}{sampled:15.0f}")
    pairs = [(found["transformers", "greedy"][r.id], found["vllm", "greedy"][r.id]) for r in asked]
    same = [(a, b) for a, b in pairs if a.ids == b.ids]
    gaps = [abs(x - y) for a, b in same for x, y in zip(a.logprobs or (), b.logprobs or (), strict=True)]
    gap = f"{max(gaps):.1e}" if gaps else "none"
    print(f"greedy: {len(same)} of {len(pairs)} answers equal (vLLM in {options.precision}); ", end="")
    print(f"largest log-probability gap of those {gap}")


if __name__ == "__main__":
    main()
