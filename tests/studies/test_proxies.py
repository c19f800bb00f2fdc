"""A proxy in the environment that hears and never answers: what runs on this machine is reached past it."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.cli.doctor import findings
from tasks.core import home
from tasks.core.errors import InputError
from tasks.storage.state import check_proxies
from tests.lab.living import ROOT, environment

START = """
from flows.cli.commands import quiet
quiet()
from flows.servers.embedded import prepare
prepare()
print("there")
"""
VARIABLES = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY")


@pytest.fixture
def silent() -> Iterator[tuple[str, socket.socket]]:
    """The address of a listener that accepts nobody, and the listener."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        listener.setblocking(False)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", listener


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize("variable", ["http_proxy", "ALL_PROXY"])
def test_the_embedded_server_is_reached_past_it(
    tmp_path: Path, silent: tuple[str, socket.socket], variable: str
) -> None:
    address, listener = silent
    given = {name: value for name, value in environment(tmp_path).items() if name not in VARIABLES}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", START], cwd=ROOT, env={**given, variable: address}, text=True, capture_output=True,
        timeout=600,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "there\n"), done.stderr[-2000:]
    with pytest.raises(BlockingIOError):  # nobody has knocked
        listener.accept()
    print(f"{variable}: {time.monotonic() - began:.0f} s")


def test_hosts_that_were_excepted_stay_so(no_proxies: pytest.MonkeyPatch) -> None:
    home.past_proxies()
    assert "NO_PROXY" not in os.environ  # no proxy, nothing to go past
    no_proxies.setenv("HTTPS_PROXY", "http://proxy:3128")
    no_proxies.setenv("no_proxy", "lab, 10.0.0.0/8")
    no_proxies.setenv("NO_PROXY", "lab,.example.org")
    home.past_proxies()
    home.past_proxies()
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == "lab,10.0.0.0/8,.example.org,127.0.0.1,localhost,::1"
    no_proxies.setenv("no_proxy", "*")
    home.past_proxies()
    assert os.environ["NO_PROXY"] == "*"


def test_doctor_knows_of_a_proxy(no_proxies: pytest.MonkeyPatch) -> None:
    (found,) = (one for one in findings() if one.what == "proxy")
    assert (found.kind, found.found) == ("ok", "none is set")
    no_proxies.setenv("http_proxy", "http://me:secret@proxy:3128")
    (found,) = (one for one in findings() if one.what == "proxy")
    assert found.kind == "ok"
    assert found.found == "http_proxy=http://proxy:3128; what runs on this machine is reached past it"


@pytest.mark.skipif(importlib.util.find_spec("socksio") is not None, reason="socksio is installed")
def test_a_socks_proxy_without_its_package_is_refused_in_one_line(no_proxies: pytest.MonkeyPatch) -> None:
    """httpx, and so Prefect's client, raises ImportError at it wherever it is to connect to."""
    no_proxies.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    with pytest.raises(InputError, match=r"^ALL_PROXY: a SOCKS proxy needs the package socksio"):
        check_proxies()
    (found,) = (one for one in findings() if one.what == "proxy")
    assert found.kind == "problem"
