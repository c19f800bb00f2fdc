"""Starting, hearing and ending the process that vLLM runs in; no vLLM needed: what fails here fails before it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.core.errors import InputError, StageError
from tasks.engines import vllm_installation
from tasks.engines.vllm import CPU_HEADS, check_cpu, check_head
from tasks.engines.vllm_installation import VARIABLE, interpreter
from tasks.engines.vllm_process import VllmProcess, last_line

SETTINGS = {"model": "nowhere", "adapters": {}, "gpu": False, "precision": "auto"}


def program(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_the_interpreter_is_the_variables_then_that_of_the_folder_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_installation, "find_spec", lambda _: None)
    monkeypatch.setattr(vllm_installation, "FOLDER", "no-such-environment")
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"no interpreter with vLLM; .* COLINEAR_VLLM_PYTHON .*make setup-vllm"):
        interpreter()
    here = tmp_path / "no-such-environment" / "bin" / "python"
    here.parent.mkdir(parents=True)
    program(here, "true")
    assert interpreter() == here
    monkeypatch.setenv(VARIABLE, program(tmp_path / "named", "true"))
    assert interpreter() == tmp_path / "named"
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(InputError, match=r"COLINEAR_VLLM_PYTHON: no program '.*'; give the Python"):
        interpreter()


@pytest.mark.skipif(vllm_installation.find_spec("vllm") is not None, reason="this interpreter has vLLM")
def test_an_interpreter_without_vllm_is_named(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the file vllm.py beside the worker does not pass for the package."""
    monkeypatch.setenv(VARIABLE, sys.executable)
    process = VllmProcess(SETTINGS, patience=60)
    with pytest.raises(InputError, match=r"engine vllm: .*python.* cannot import vLLM \(No module named 'vllm'\)"):
        process.receive()


def test_a_process_that_dies_gives_its_last_words(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crash = "read line; echo INFO >&2; echo 'RuntimeError: no memory left' >&2; echo ' - leaked instance' >&2; exit 3"
    monkeypatch.setenv(VARIABLE, program(tmp_path / "python", crash))
    process = VllmProcess(SETTINGS, patience=30)
    with pytest.raises(StageError, match=r"died \(exit code 3\); its last words: 'RuntimeError: no memory left'") as e:
        process.receive()
    assert str(process.log) in str(e.value)
    with pytest.raises(StageError, match="died"):
        process.send([{"run": {}}])


def test_silence_ends_it_and_its_children(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, program(tmp_path / "python", f"sleep 100 & echo $! > {tmp_path}/child; sleep 100"))
    process = VllmProcess(SETTINGS, patience=1.0)
    with pytest.raises(StageError, match="vLLM said nothing for 1 s and was ended"):
        process.receive()
    assert gone(int((tmp_path / "child").read_text()))


def test_a_worker_that_was_killed_alone_leaves_no_child(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        VARIABLE, program(tmp_path / "python", f"read line; sleep 100 >&- & echo $! > {tmp_path}/child; kill -9 $$")
    )
    process = VllmProcess(SETTINGS, patience=30)
    with pytest.raises(StageError, match=r"died \(signal SIGKILL\)"):
        process.receive()
    assert gone(int((tmp_path / "child").read_text()))


def test_the_worker_ends_when_its_driver_is_killed(state: Path, tmp_path: Path) -> None:
    driver = f"""
import os, signal, sys
from tasks.engines.vllm_process import VllmProcess
process = VllmProcess({SETTINGS!r}, patience=60)
print(process.pid, flush=True)
signal.pause()
"""
    # The worker waits for its settings' model in vLLM's import, or fails; either way it must not outlive the driver.
    slow = program(tmp_path / "python", f'exec {sys.executable} "$@"')
    environment = {**os.environ, VARIABLE: slow, "COLINEAR_HOME": str(state)}
    with subprocess.Popen([sys.executable, "-c", driver], stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        worker = int(child.stdout.readline())
        child.kill()
    assert gone(worker)


def gone(pid: int, seconds: float = 20.0) -> bool:
    """Whether a process ends within some seconds; an unreaped one has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_the_last_line_that_tells_something(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("INFO a\nValueError: wrong\nINFO b\nnanobind: leaked 4 instances!\n - leaked type\n\n")
    assert last_line(log) == "ValueError: wrong"
    log.write_text("INFO a\nINFO b\n\nnanobind: leaked 4 instances!\n")
    assert last_line(log) == "INFO b"
    log.write_text("")
    assert last_line(log) == ""


def test_heads_that_vllm_cannot_compute_on_a_cpu_are_refused(tmp_path: Path) -> None:
    for size in CPU_HEADS:
        check_head(size)
    config = tmp_path / "config.json"
    config.write_text('{"hidden_size": 64, "num_attention_heads": 4}')
    with pytest.raises(InputError, match=r"attention heads have 16 dimensions.*take the transformers engine"):
        check_cpu(tmp_path)
    config.write_text('{"hidden_size": 64, "num_attention_heads": 4, "head_dim": 32}')
    check_cpu(tmp_path)
