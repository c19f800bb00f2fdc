"""Another user of the same machine: what they can read, and whom they reach on loopback. Only root can be two users."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.living import SECONDS, Ui, colinear, environment

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")
NOBODY = 65534

AS_NOBODY = """
import json, os, sys, urllib.error, urllib.request
import encodings.idna, stringprep, ssl  # before the libraries' folder may be out of reach
os.setgroups([]); os.setgid(65534); os.setuid(65534)

def read(path):
    try:
        return open(path, "rb").read().decode(errors="replace") if os.path.isfile(path) else os.listdir(path)
    except OSError as error:
        return type(error).__name__

def ask(url, body, header):
    headers = {"content-type": "application/json", **({"authorization": header} if header else {})}
    try:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=60) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code

wanted = json.loads(sys.stdin.read())
print(json.dumps([read(path) for path in wanted["paths"]] + [ask(*one) for one in wanted["requests"]]))
"""

EMBEDDED = """
import sys
from tasks.core import home
home.quiet_environment()
from prefect import flow
from flows.servers import embedded
embedded.prepare()
flow(name="mine")(lambda: 7)()
from prefect.client.orchestration import get_client
with get_client(sync_client=True) as client:
    print(embedded.own().url, client.count_flow_runs() if hasattr(client, "count_flow_runs") else
          len(client.read_flow_runs()), flush=True)
sys.stdin.read()
"""


def as_nobody(paths: list[Path] = [], requests: list[tuple[str, Any, str]] = []) -> list[Any]:  # noqa: B006
    """What another user gets: a file's text, a folder's names or the error's; a request's status."""
    wanted = json.dumps({"paths": [str(path) for path in paths], "requests": requests})
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY], input=wanted, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout)
    return found


REFUSED = """
import os
from tasks.core.errors import InputError
from tasks.storage.state import check_writable
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    check_writable()
except InputError as error:
    print(error)
"""


def test_a_folder_of_somebody_elses_is_refused_in_one_line(common: Path) -> None:
    """Also one that is shared on purpose: its servers' login is its owner's."""
    home = common / "home"
    home.mkdir()
    home.chmod(0o2777)
    made = "from tasks.core import home; home.quiet_environment()"
    subprocess.run([sys.executable, "-c", made], env=environment(home), check=True, timeout=SECONDS)
    done = subprocess.run(
        [sys.executable, "-c", REFUSED],
        env=environment(home),
        cwd=common,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.stdout == (
        f"COLINEAR_HOME: {home / 'token'} cannot be read (Permission denied): the state folder is another user's; name "
        "one of your own\n"
    ), done.stderr


def basic(login: str) -> str:
    return f"Basic {base64.b64encode(login.encode()).decode()}"


@pytest.fixture
def common() -> Iterator[Path]:
    """A folder into which everybody may look; pytest's own are closed."""
    with tempfile.TemporaryDirectory(prefix="colinear-common-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_the_state_folder_is_closed_to_others_even_if_it_was_open(common: Path) -> None:
    home = common / "home"
    home.mkdir(mode=0o755)
    (home / "mlflow.db").write_text("mine")
    (common / "beside").write_text("everybody's")
    looked_at = [common / "beside", home, home / "mlflow.db", home / "token"]
    assert as_nobody(looked_at) == ["everybody's", ["mlflow.db"], "mine", "FileNotFoundError"]
    (home / "mlflow.db").unlink()
    made = "from tasks.core import home; home.quiet_environment()"
    subprocess.run([sys.executable, "-c", made], env=environment(home), check=True, timeout=SECONDS)
    assert as_nobody(looked_at) == ["everybody's", "PermissionError", "PermissionError", "PermissionError"]
    assert (home.stat().st_mode & 0o777, (home / "token").stat().st_mode & 0o777) == (0o700, 0o600)
    home.chmod(0o755)  # the file is closed on its own account
    assert as_nobody(looked_at)[3] == "PermissionError"


def test_the_server_that_a_study_starts_asks_for_the_login(common: Path) -> None:
    home = common / "home"
    process = subprocess.Popen(
        [sys.executable, "-c", EMBEDDED], env=environment(home, TMPDIR=str(common)), cwd=common, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline().split()
        if len(line) != 2:
            pytest.fail(process.communicate(timeout=SECONDS)[1])
        api, runs = line
        assert runs == "1"  # its own flow run: our client is let in
        asked = f"{api}/flow_runs/count"
        login = (home / "token").read_text().strip()
        assert as_nobody(requests=[
            (asked, {}, ""), (asked, {}, basic("colinear:guessed")), (f"{api}/health", None, ""),
            (asked, {}, basic(login)),
        ]) == [401, 401, 200, 200]  # fmt: skip
    finally:
        process.communicate(timeout=SECONDS)


def test_whoever_is_not_the_owner_gets_nothing_from_the_ui(ui: Ui) -> None:
    """Not a page of MLflow's, not a run of Prefect's; nor do they see the login in a list of processes."""
    search = f"{ui.mlflow}/api/2.0/mlflow/experiments/search?max_results=1"
    files = f"{ui.mlflow}/api/2.0/mlflow-artifacts/artifacts"
    wanted: list[tuple[str, Any]] = [
        (f"{ui.prefect}/api/flow_runs/filter", {}), (f"{ui.prefect}/api/admin/version", None),
        (f"{ui.mlflow}/", None), (f"{ui.mlflow}/version", None), (search, None), (files, None),
        (f"{ui.mlflow}//health", None), (f"{ui.mlflow}/health/../version", None),
    ]  # fmt: skip
    wrong = ["", basic("colinear:guessed"), basic("colinear:"), "Basic !", f"Bearer {ui.login.partition(':')[2]}"]
    for header in wrong:
        assert as_nobody(requests=[(url, body, header) for url, body in wanted]) == [401] * len(wanted), header
    assert as_nobody(requests=[(f"{ui.prefect}/api/health", None, ""), (f"{ui.mlflow}/health", None, "")]) == [200, 200]
    known = as_nobody(requests=[(url, body, basic(ui.login)) for url, body in wanted[:6]])
    assert known == [200] * 6  # whoever has the login is let in: what is refused above is there

    processes = [
        folder
        for folder in Path("/proc").glob("[0-9]*")
        if f"COLINEAR_HOME={ui.home}\0".encode() in readable(folder / "environ")
    ]
    assert len(processes) >= 4  # the command, both servers, the watcher
    seen = as_nobody([folder / name for folder in processes for name in ("cmdline", "environ")])
    assert not any(ui.login.partition(":")[2] in str(one) for one in seen)
    assert {one for one in seen[1::2]} == {"PermissionError"}


def readable(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended
        return b""


def test_doctor_says_whether_servers_let_us_in(ui: Ui, tmp_path: Path) -> None:
    addresses = {"PREFECT_API_URL": f"{ui.prefect}/api", "MLFLOW_TRACKING_URI": ui.mlflow}
    owner = colinear("doctor", home=ui.home, **addresses).stdout
    assert f"server at {ui.prefect}/api answers (PREFECT_API_URL)" in owner
    assert f"server at {ui.mlflow} answers" in owner
    other = colinear("doctor", home=tmp_path, **addresses)
    assert other.returncode == 1
    assert f"server at {ui.prefect}/api does not let us in" in other.stdout
    assert f"server at {ui.mlflow} does not let us in" in other.stdout
    user, _, password = ui.login.partition(":")
    given = {
        "PREFECT_API_AUTH_STRING": ui.login, "MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password,
    }  # fmt: skip
    assert "does not let us in" not in colinear("doctor", home=tmp_path, **addresses, **given).stdout
