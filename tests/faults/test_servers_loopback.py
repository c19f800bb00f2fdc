"""Nothing that we start listens to other machines: by the sockets of every process, while it runs."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from tasks.engines.vllm import VllmEngine
from tests.faults.processes import living
from tests.faults.servers import studying
from tests.faults.sockets import is_loopback, listening
from tests.lab.living import Ui
from tests.lab.vllm_models import make_base, needs_vllm


def test_the_listening_sockets_of_a_process_are_seen() -> None:
    """Guards the tests below: they would pass for nothing if none were."""
    with (
        socket.create_server(("127.0.0.1", 0)) as narrow,
        socket.create_server(("", 0)) as broad,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as six,
        socket.socket(type=socket.SOCK_DGRAM) as udp,
    ):
        udp.bind(("0.0.0.0", 0))
        ports = [one.getsockname()[1] for one in (narrow, broad, six, udp)]
        expected = set(zip(["127.0.0.1", "0.0.0.0", "::1", "0.0.0.0"], ports, strict=True))
        assert expected <= listening(os.getpid())
    assert not expected & listening(os.getpid())
    assert all(map(is_loopback, ["127.0.0.1", "127.8.0.1", "::1", "::ffff:127.0.0.1"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "10.1.2.3", "::ffff:10.1.2.3", "fe80::1"]))


def places(home: Path) -> dict[str, set[tuple[str, int]]]:
    """{role: addresses} of the living processes of a state folder."""
    found: dict[str, set[tuple[str, int]]] = {}
    for process in living(home):
        found.setdefault(process.role, set()).update(listening(process.pid))
    return found


def wide(found: dict[str, set[tuple[str, int]]]) -> dict[str, set[tuple[str, int]]]:
    """Those that other machines can reach."""
    return {
        role: outside for role, all_ in found.items() if (outside := {one for one in all_ if not is_loopback(one[0])})
    }


@pytest.mark.faults
def test_a_study_listens_on_loopback_only(tmp_path: Path) -> None:
    """The embedded Prefect server, and the processes of pretraining, which talk to each other."""
    home = tmp_path / "home"
    found: dict[str, set[tuple[str, int]]] = {}
    with studying(home, tmp_path / "out", ["study", "smoke"]) as run:
        while run.process.poll() is None:
            for role, addresses in places(home).items():
                found.setdefault(role, set()).update(addresses)
            time.sleep(0.2)
    assert run.process.returncode == 0, "\n".join(run.lines)
    assert {"driver", "prefect", "worker"} <= found.keys()
    assert found["prefect"]
    assert found["worker"]
    assert not wide(found)


@pytest.mark.long
def test_the_ui_listens_on_loopback_only(ui: Ui) -> None:
    found = places(ui.home)
    ports = {port for addresses in found.values() for _, port in addresses}
    assert {int(uri.rpartition(":")[2]) for uri in (ui.prefect, ui.mlflow)} <= ports
    assert not wide(found)


@pytest.mark.faults
@needs_vllm
def test_vllm_listens_on_loopback_only(tmp_path: Path, state: Path) -> None:
    base = make_base(tmp_path / "base")
    with VllmEngine(base, adapters={}, batch_size=4):
        found = {str(pid): listening(pid) for pid in children(os.getpid())}
    assert len(found) > 1
    assert not wide(found)


def children(pid: int) -> list[int]:
    """Of a process, and theirs."""
    try:
        lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:  # it has ended
        return []
    direct = [int(word) for text in lists for word in text.split()]
    return direct + [one for child in direct for one in children(child)]
