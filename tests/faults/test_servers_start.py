"""Servers that are not there, or are none, when a study begins: one line, at once, before any work."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from flows.servers import prefect_server
from flows.servers.prefect_server import named
from tasks.core.errors import InputError, StageError
from tasks.storage import tracking
from tasks.storage.tracking import Tracking
from tests.faults.proxy import answering, refusing, silent
from tests.lab.living import ROOT, environment

PAGE = b"<html><body>Welcome to the router</body></html>"
PASSWORD = "hunter2secret"
SECONDS = 20.0
"""The longest that a person waits for the line; most of it is for a server that accepts and never answers."""


def busy() -> float:
    """How many want each core: a command's imports alone take some 5 s of one."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


KINDS = {
    "refused": ("connection refused", refusing),
    "silent": ("no answer in time", silent),
    "not found": ("404", lambda: answering(PAGE, 404)),
    "a page": ("is no", lambda: answering(PAGE)),
    "other JSON": ("is no", lambda: answering(b"[1, 2]", kind="application/json")),
    "ill": ("500", lambda: answering(PAGE, 500)),
    "no key": ("does not let us in", lambda: answering(b"You are not authenticated", 401, "text/plain")),
}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands below wait as long as a person does."""
    monkeypatch.setattr(tracking, "REACH_SECONDS", 1)
    monkeypatch.setattr(prefect_server, "REACH_SECONDS", 0.5)


@pytest.fixture(params=[*KINDS, "no host"])
def bad(request: pytest.FixtureRequest, short: None) -> Iterator[tuple[str, str]]:
    """(What is to be said, an address with a password) of something that is no server of ours."""
    if request.param == "no host":
        yield "no such host", f"http://me:{PASSWORD}@no-such-host.invalid:5000"
        return
    said, make = KINDS[request.param]
    with ExitStack() as stack:
        uri = stack.enter_context(make())
        yield said, uri.replace("http://", f"http://me:{PASSWORD}@")


def test_what_is_no_mlflow_is_refused_in_one_line(bad: tuple[str, str], state: Path) -> None:
    said, uri = bad
    began = time.monotonic()
    with pytest.raises(InputError) as refused:
        Tracking(uri)
    message = str(refused.value)
    assert time.monotonic() - began < SECONDS
    assert message.startswith("MLFLOW_TRACKING_URI: ")
    assert said in message
    assert f"at http://{uri.rpartition('@')[2]}" in message
    assert "\n" not in message
    assert PASSWORD not in message
    assert PASSWORD not in "".join(traceback.format_exception(refused.value))


def test_what_is_no_prefect_is_refused_in_one_line(bad: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    said, uri = bad
    began = time.monotonic()
    with temporary_settings({PREFECT_API_URL: f"{uri}/api"}), pytest.raises(InputError) as refused:
        prefect_server.check()
    message = str(refused.value)
    assert time.monotonic() - began < SECONDS
    assert message.startswith("PREFECT_API_URL: ")
    assert said in message
    assert f"at http://{uri.rpartition('@')[2]}/api" in message
    assert "\n" not in message
    assert PASSWORD not in "".join(traceback.format_exception(refused.value))


def test_an_embedded_server_needs_no_check() -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        assert prefect_server.api() is None
        prefect_server.check()
        prefect_server.wait_until_there()


def test_only_prefects_own_lost_connections_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with refusing() as uri, temporary_settings({PREFECT_API_URL: f"{uri}/api"}):
        with pytest.raises(httpx.ConnectError) as lost:
            httpx.get(uri)
        said = named(lost.value)
        assert isinstance(said, StageError)
        assert str(said) == f"Prefect at {uri}/api does not answer; the run's end is not recorded there"
    assert named(StageError("the device is gone")) is None
    assert named(ConnectionError("connection refused")) is None  # ours, or a library's, not Prefect's


def test_a_command_that_has_failed_ends_though_prefect_has_more_to_send() -> None:
    program = (
        "import threading, time; from flows.servers.prefect_server import leave_within; "
        "threading._register_atexit(lambda: time.sleep(600)); leave_within(0.5)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=240, check=False)
    assert done.returncode == 1


COMMANDS = {
    "study": ["study", "smoke", "--out", "out"],
    "sweep": ["sweep", "smoke", "--seeds", "0,1", "--out", "out"],
    "compare": ["compare", "one", "two", "--out", "out"],
}


@pytest.mark.faults
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("variable", ["MLFLOW_TRACKING_URI", "PREFECT_API_URL"])
@pytest.mark.parametrize("kind", ["refused", "silent", "a page", "no host"])
def test_a_command_says_it_at_once_and_does_nothing(
    command: str, variable: str, kind: str, tmp_path: Path, two_adapters: Path
) -> None:
    home = tmp_path / "home"
    with ExitStack() as stack:
        uri = "http://no-such-host.invalid:5000"
        if kind != "no host":
            uri = stack.enter_context(KINDS[kind][1]())
        given = uri.replace("http://", f"http://me:{PASSWORD}@") + ("/api" if variable == "PREFECT_API_URL" else "")
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", *COMMANDS[command]], cwd=two_adapters, text=True, capture_output=True,
            env=environment(home, **{variable: given}), timeout=240, check=False,
        )  # fmt: skip
        seconds = time.monotonic() - began
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"colinear: {variable}: ")
    assert uri in line
    assert PASSWORD not in done.stdout + done.stderr
    assert seconds < busy() * SECONDS
    assert not (two_adapters / "out").exists()
    for log in home.rglob("*"):
        assert not log.is_file() or PASSWORD.encode() not in log.read_bytes(), log


@pytest.fixture
def two_adapters(tmp_path: Path) -> Path:
    """A folder in which ``one`` and ``two`` are adapters that can be compared."""
    import json

    import torch
    from safetensors.torch import save_file

    for seed, name in enumerate(("one", "two")):
        folder = tmp_path / "work" / name
        folder.mkdir(parents=True)
        generator = torch.Generator().manual_seed(seed)
        module = "base_model.model.model.layers.0.self_attn.q_proj"
        save_file(
            {
                f"{module}.lora_A.weight": torch.randn(2, 8, generator=generator),
                f"{module}.lora_B.weight": torch.randn(8, 2, generator=generator),
            },
            folder / "adapter_model.safetensors",
        )
        settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "bias": "none"}
        (folder / "adapter_config.json").write_text(json.dumps(settings))
    assert ROOT.is_dir()
    return tmp_path / "work"
