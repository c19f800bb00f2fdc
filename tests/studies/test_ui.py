"""`colinear ui`: both servers on the project's stores, started, found, refused and stopped."""

from __future__ import annotations

import os
import signal
import socket
import urllib.request
from pathlib import Path

import pytest

from flows.cli.main import main
from flows.servers import processes as servers
from tests.lab.living import Ui, colinear, free_port, left_behind, living, until


def read(ui: Ui, url: str) -> str:
    with urllib.request.urlopen(urllib.request.Request(url, headers=ui.known), timeout=60) as reply:
        return str(reply.read().decode())


def test_both_addresses_are_printed_and_answer(ui: Ui) -> None:
    assert f"Prefect  {ui.prefect} " in ui.living.said
    assert f"MLflow   {ui.mlflow} " in ui.living.said
    user, _, password = ui.login.partition(":")
    assert f"Log in   user {user}, password {password}; Prefect's page has one field for both: {ui.login}\n" in (
        ui.living.said
    )
    assert "<title>Prefect" in read(ui, ui.prefect)
    assert "<title>MLflow" in read(ui, ui.mlflow)
    # The page asks the API at the port that it is on, not at Prefect's default.
    assert f'"api_url":"{ui.prefect}/api"' in read(ui, f"{ui.prefect}/ui-settings").replace(" ", "")


def test_mlflow_answers_at_the_end_of_a_tunnel(ui: Ui) -> None:
    """``ssh -L 8080:localhost:PORT`` sends ``Host: localhost:8080``; ``--allowed-hosts`` would have to name it."""
    request = urllib.request.Request(f"{ui.mlflow}/version", headers={"Host": "localhost:8080", **ui.known})
    with urllib.request.urlopen(request, timeout=60) as reply:
        assert reply.status == 200


def test_runs_of_embedded_mode_are_there(ui: Ui) -> None:
    runs = ui.ask("/flow_runs/filter", {})
    assert [(run["name"], run["state"]["name"]) for run in runs if run["name"] == "before the ui"] == [
        ("before the ui", "Completed")
    ]


def test_a_second_one_is_refused_and_says_where_the_first_is(ui: Ui) -> None:
    done = colinear("ui", "--prefect-port", str(free_port()), home=ui.home)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"it runs already for {ui.home} at {ui.prefect} and {ui.mlflow}" in done.stderr


@pytest.mark.parametrize("option", ["--prefect-port", "--mlflow-port"])
def test_a_port_in_use_is_refused_with_one_that_is_free(
    option: str, state: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    other = {"--prefect-port": "--mlflow-port", "--mlflow-port": "--prefect-port"}[option]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["ui", option, str(port), other, str(free_port())]) == 2
    said = capsys.readouterr().err
    assert f"colinear: {option}: port {port} is in use on this machine; {option} " in said
    assert servers._free(int(said.split()[-3]))
    assert not (state / "servers.json").exists()


def test_one_port_for_both_is_refused(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ui", "--prefect-port", "4977", "--mlflow-port", "4977"]) == 2
    assert "4977 is Prefect's port as well" in capsys.readouterr().err


def test_existing_servers_are_printed_and_used_as_they_are(ui: Ui, tmp_path: Path) -> None:
    done = colinear(
        "ui", home=tmp_path, PREFECT_API_URL=f"{ui.prefect}/api", MLFLOW_TRACKING_URI=ui.mlflow,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"Prefect  {ui.prefect} " in done.stdout
    assert f"MLflow   {ui.mlflow} " in done.stdout
    assert "nothing was started" in done.stdout
    assert "Log in" not in done.stdout  # how to is for their owner to say


def test_an_existing_server_that_does_not_answer_is_refused(tmp_path: Path) -> None:
    api = f"http://127.0.0.1:{free_port()}/api"
    done = colinear("ui", home=tmp_path, PREFECT_API_URL=api)
    assert done.returncode == 2
    assert f"PREFECT_API_URL: no Prefect server answers at {api}" in done.stderr


def test_when_one_dies_the_command_says_so_and_leaves_nothing(ui: Ui, tmp_path: Path) -> None:
    """Beside Prefect's server that is there already: only MLflow is started, and it is killed."""
    home, port = tmp_path / "home", free_port()
    with living("ui", "--mlflow-port", str(port), home=home, PREFECT_API_URL=f"{ui.prefect}/api") as running:
        running.wait_for("Ready after")
        [server] = [one for one in _groups(home) if "mlflow_door\0server" in command_of(one)]
        os.killpg(server, signal.SIGKILL)
        assert running.process.wait(60) == 1
        assert "MLflow's server ended with exit code -9" in running.said
    until(lambda: not left_behind(home), 10)
    assert not (home / "servers.json").exists()


def test_kill_9_of_the_command_ends_its_servers(ui: Ui, tmp_path: Path) -> None:
    home = tmp_path / "home"
    words = ("ui", "--mlflow-port", str(free_port()))
    with living(*words, home=home, PREFECT_API_URL=f"{ui.prefect}/api") as running:
        running.wait_for("Ready after")
        assert len(_groups(home)) == 3  # the command, its server, and the watcher of `flows.servers.orphans`
        running.process.kill()
        running.process.wait()
        until(lambda: not left_behind(home), 20)


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def _groups(home: Path) -> set[int]:
    """Process groups of what runs with this state folder."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"COLINEAR_HOME={home}\0".encode() in (folder / "environ").read_bytes():
                found.add(os.getpgid(int(folder.name)))
        except OSError:
            continue
    return found
