"""The services of ``docker/compose.yaml`` as plain processes on loopback, in their order, by their own commands.

What is another here: addresses (one machine has them all), artifacts (a folder instead of an object store), PostgreSQL
(Debian's), no containers. colinear is installed as in the image, from what the image is made of: not this checkout.
"""

from __future__ import annotations

import base64
import json
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.docker.composed import COMPOSE, ROOT, SECRETS, services
from tests.lab.living import SECONDS, free_port, until

POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
BIN = Path(sys.executable).parent
STOP_SECONDS = 60
COMMIT = "0123456789ab"
"""Of the image that there is none of."""


@dataclass(frozen=True)
class Team:
    """Where everything is, and what opens it."""

    folder: Path
    ports: Mapping[str, int]
    given: Mapping[str, str]
    """The secrets, by their variables' names."""

    @property
    def work(self) -> Path:
        """Where the worker's runs work: ``/state`` of its container."""
        return self.folder / "state"

    @property
    def mlflow(self) -> str:
        return f"http://127.0.0.1:{self.ports['mlflow']}"

    @property
    def store(self) -> str:
        """MLflow's address with the login that lets in."""
        return self.mlflow.replace("://", f"://colinear:{self.given['MLFLOW_PASSWORD']}@")

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def ask(self, path: str, body: dict[str, Any] | None = None, auth: str | None = None) -> Any:
        """Prefect's API: GET, or POST with a body."""
        data = None if body is None else json.dumps(body).encode()
        credentials = base64.b64encode((auth or self.given["PREFECT_AUTH"]).encode()).decode()
        headers = {"content-type": "application/json", "authorization": f"Basic {credentials}"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.ports['prefect']}/api{path}", data, headers)
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.loads(reply.read())

    def count(self, database: str, query: str) -> int:
        """A number out of PostgreSQL."""
        import psycopg2

        connection = psycopg2.connect(
            host="127.0.0.1", port=self.ports["postgres"], user="colinear", dbname=database,
            password=self.given["POSTGRES_PASSWORD"],
        )  # fmt: skip
        try:
            with connection.cursor() as cursor:
                cursor.execute(query)
                return int(cursor.fetchone()[0])
        finally:
            connection.close()


@contextmanager
def team(folder: Path) -> Iterator[Team]:
    """Start everything as ``docker compose --profile cpu up`` does, and end it."""
    if not POSTGRES:
        pytest.skip("no PostgreSQL under /usr/lib/postgresql (apt-get install postgresql)")
    pytest.importorskip("flask_wtf", reason="MLflow asks for no password without Flask-WTF (make setup installs it)")
    ports = {name: free_port() for name in ("postgres", "prefect", "mlflow", "worker")}
    given = {name: secrets.token_urlsafe(18) for name in SECRETS}
    given["PREFECT_AUTH"] = f"team:{given['PREFECT_AUTH']}"
    lab = Team(folder, ports, given)
    lab.work.mkdir()
    (folder / "tmp").mkdir()
    site = install(folder)
    wanted = moved(services(given), ports, folder)
    with ExitStack() as stack:
        stack.enter_context(postgres(lab, wanted["postgres"]))
        for name in ("prefect", "mlflow", "deploy", "worker"):
            service, environment = wanted[name], surroundings(lab, wanted[name], site)
            process = stack.enter_context(started(lab, name, service["command"], environment))
            if service["restart"] == "no":
                assert process.wait(2 * SECONDS) == 0, lab.log(name)
            else:
                check = service["healthcheck"]["test"][1:]
                until(lambda: process.poll() is not None or healthy(check, environment))  # noqa: B023
                assert process.poll() is None, lab.log(name)
        yield lab


def install(folder: Path) -> Path:
    """What the image's last step installs, from the files that its context has."""
    source, site = folder / "source", folder / "site"
    source.mkdir()
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    for name in ("deployments", "flows", "tasks"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    words = ["-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-build-isolation", "--target", str(site)]
    subprocess.run([sys.executable, *words, str(source)], check=True, timeout=SECONDS)
    return site


def moved(wanted: dict[str, Any], ports: Mapping[str, int], folder: Path) -> dict[str, Any]:
    """The services with loopback's addresses for those of their network, and files of ``folder`` for mounted ones."""

    def here(text: str) -> str:
        for name, port in {"prefect": 4200, "mlflow": 5000, "postgres": 5432, "worker": 8080}.items():
            text = text.replace(f"{name}:{port}", f"127.0.0.1:{port}")
            text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{ports[name]}")
            text = text.replace(f'"{port}"', f'"{ports[name]}"')
        return text.replace("0.0.0.0", "127.0.0.1").replace("s3://mlflow", str(folder / "artifacts"))

    source, inside, _ = wanted["mlflow"]["volumes"][0].split(":")
    (folder / source).write_text(here((COMPOSE.parent / source).read_text()))
    found: dict[str, Any] = json.loads(here(json.dumps(wanted)).replace(inside, str(folder / source)))
    return found


def surroundings(lab: Team, service: Mapping[str, Any], site: Path | None) -> dict[str, str]:
    """A process's environment: the image's and its service's, nothing of whoever runs the tests."""
    ours = ("COLINEAR_", "PREFECT_", "MLFLOW_", "AWS_", "PG", "PYTHON")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    image = {
        "PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(lab.work), "TMPDIR": str(lab.folder / "tmp"),
        "COLINEAR_HOME": str(lab.work), "PYTHONSAFEPATH": "1", "DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "COLINEAR_COMMIT": COMMIT, "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    own = {name: value for name, value in service["environment"].items() if value is not None}
    return {**clean, **image, **({"PYTHONPATH": str(site)} if site else {}), **own}


@contextmanager
def started(
    lab: Team, name: str, words: list[str], environment: Mapping[str, str], cwd: Path | None = None, **more: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """A process of a group of its own; ended by SIGTERM as a container is, then killed with what is left of it."""
    with (lab.folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            words, cwd=cwd or lab.work, env=dict(environment), stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            start_new_session=True, **more,
        )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def healthy(check: list[str], environment: Mapping[str, str]) -> bool:
    """Whether a service's own health check passes."""
    return (
        subprocess.run(check, env=dict(environment), capture_output=True, timeout=SECONDS, check=False).returncode == 0
    )


@contextmanager
def postgres(lab: Team, service: Mapping[str, Any]) -> Iterator[None]:
    """PostgreSQL as its image sets it up. It refuses to run as root: then it runs as ``postgres`` or ``nobody``."""
    wanted, binaries = service["environment"], POSTGRES[-1].parent
    with tempfile.TemporaryDirectory(prefix="colinear-pg-") as temporary:  # which that user can reach
        folder, user = Path(temporary), unprivileged()
        (folder / "password").write_text(wanted["POSTGRES_PASSWORD"])
        more: dict[str, Any] = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
        if user:
            for path in (folder, folder / "password"):
                os.chown(path, user.pw_uid, user.pw_gid)
        environment = surroundings(lab, service, None) | {
            "PATH": f"{binaries}:{os.environ['PATH']}", "HOME": temporary, "TMPDIR": temporary,
            "PGDATA": f"{temporary}/data", "PGPORT": str(lab.ports["postgres"]),
            "PGPASSWORD": wanted["POSTGRES_PASSWORD"],
        }  # fmt: skip
        name = wanted["POSTGRES_USER"]

        def run(*words: str) -> None:
            subprocess.run(
                words, cwd=folder, env=environment, check=True, timeout=SECONDS, stdout=subprocess.DEVNULL, **more
            )

        run(
            "initdb", f"--username={name}", f"--pwfile={folder / 'password'}", "--auth=scram-sha-256", "--encoding=UTF8"
        )
        words = ["postgres", "-h", "127.0.0.1", "-k", temporary, "-c", "fsync=off"]
        with started(lab, "postgres", words, environment, cwd=folder, **more) as process:
            connect = ["-h", "127.0.0.1", "-U", name]
            until(
                lambda: process.poll() is not None or healthy(["pg_isready", *connect, "-d", "postgres"], environment)
            )
            assert process.poll() is None, lab.log("postgres")
            run("createdb", *connect, wanted["POSTGRES_DB"])
            script = (COMPOSE.parent / "databases.sql").read_text()
            run("psql", *connect, "-v", "ON_ERROR_STOP=1", "-c", script, wanted["POSTGRES_DB"])
            assert healthy(service["healthcheck"]["test"][1:], environment)
            yield
        assert process.returncode == 0, lab.log("postgres")  # with all of its own processes


def unprivileged() -> pwd.struct_passwd | None:
    """Whom to run PostgreSQL as; None: as we are, where we are not root."""
    if os.getuid() != 0:
        return None
    users = {user.pw_name: user for user in pwd.getpwall()}
    return users.get("postgres") or users["nobody"]
