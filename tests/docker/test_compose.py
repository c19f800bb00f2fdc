"""``docker/``: what must hold of the images and of the compose file before anybody starts them; a real compose tool."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.pools import CONTAINER_ENV, IMAGE, POOLS
from tests.docker.composed import COMPOSE, ROOT, SECRETS, services, variables

DOCKERFILE = (COMPOSE.parent / "Dockerfile").read_text()
GIVEN = {name: f"{name.lower()}:of-a-test" for name in SECRETS}
ALL = services(GIVEN)


def instructions(name: str) -> list[str]:
    """What the Dockerfile's instructions of one kind say, continued lines joined."""
    lines = re.sub(r"\\\n\s*", " ", re.sub(r"(?m)^#.*\n", "", DOCKERFILE)).splitlines()
    return [line.removeprefix(f"{name} ").strip() for line in lines if line.startswith(f"{name} ")]


def test_every_image_is_ours_or_pinned_to_a_version() -> None:
    for name, service in ALL.items():
        if "build" in service:
            assert service["image"] in ("colinear:cpu", "colinear:gpu"), name
        else:
            assert re.fullmatch(r"[\w/.-]+:\d+\.\d+[\w.-]*", service["image"]), name
    (base,) = [one.removeprefix("BASE=") for one in instructions("ARG") if one.startswith("BASE=")]
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base)
    assert instructions("FROM") == ["${BASE}"]


def test_no_secret_has_a_default() -> None:
    required = {name for name, sign, _ in variables() if sign == "?"}
    assert required == set(SECRETS)
    with_defaults = {name for name, sign, _ in variables() if sign != "?"}
    assert not [name for name in with_defaults if re.search("PASSWORD|SECRET|KEY|AUTH|TOKEN", name)]
    for name, sign, message in variables():
        assert sign != "?" or "docker/.env" in message, name  # the way out


def test_the_example_names_every_variable_and_holds_no_value() -> None:
    lines = (COMPOSE.parent / ".env.example").read_text().splitlines()
    settings = dict(re.fullmatch(r"#?(\w+)=(.*)", line).groups() for line in lines if re.match(r"#?\w+=", line))  # type: ignore[union-attr]
    passed = {key for one in ALL.values() for key, value in one.get("environment", {}).items() if value is None}
    assert settings.keys() == {name for name, _, _ in variables()} | passed | {"COMPOSE_PROFILES"}
    assert {name for name in settings if f"{name}=" in lines} == {*SECRETS, "COMPOSE_PROFILES"}  # the rest is a comment
    defaults = {name: text for name, sign, text in variables() if sign == "-"}
    assert {name: settings[name] for name in defaults} == defaults
    assert not any(settings[name] for name in {*SECRETS, *passed})


def test_the_filled_in_example_is_never_committed() -> None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no git checkout")
    assert subprocess.run(["git", "check-ignore", "-q", "docker/.env"], cwd=ROOT, check=False).returncode == 0


def test_ports_are_published_on_loopback() -> None:
    published = [port for service in ALL.values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:4200:4200", "127.0.0.1:5000:5000"]
    opened = services({**GIVEN, "PUBLISH": "192.0.2.7", "PREFECT_PORT": "80"})["prefect"]
    assert opened["ports"] == ["192.0.2.7:80:4200"]


def test_each_service_is_watched_or_runs_once_and_is_waited_for_accordingly() -> None:
    once = {name for name, service in ALL.items() if service["restart"] == "no"}
    assert once == {"bucket", "deploy"}
    for name, service in ALL.items():
        assert ("healthcheck" in service) == (name not in once), name
        for other, how in service.get("depends_on", {}).items():
            expected = "service_completed_successfully" if other in once else "service_healthy"
            assert how == {"condition": expected}, (name, other)


def test_there_is_one_worker_a_gpu() -> None:
    for count in (1, 2, 4, 8):
        workers = [one for one in ALL.values() if f"gpus-{count}" in one.get("profiles", [])]
        devices = [one["deploy"]["resources"]["reservations"]["devices"] for one in workers]
        assert [(one["driver"], one["device_ids"]) for (one,) in devices] == [
            ("nvidia", [str(i)]) for i in range(count)
        ]
        assert {one["image"] for one in workers} == {IMAGE}
    (everything,) = [one for one in ALL.values() if one.get("profiles") == ["gpus-all"]]
    assert everything["deploy"]["resources"]["reservations"]["devices"][0]["count"] == "all"
    (cpu,) = [one for one in ALL.values() if one.get("profiles") == ["cpu"]]
    assert "deploy" not in cpu
    assert cpu["image"] == "colinear:cpu"


def test_workers_of_a_machine_share_state_under_one_host_name() -> None:
    """A lock's holder is known by host and folder (`Store._place`): with a name of its own each would wait for none."""
    workers = [one for one in ALL.values() if one.get("profiles")]
    assert {(one["hostname"], tuple(one["volumes"])) for one in workers} == {("colinear", ("state:/state",))}
    assert {one["working_dir"] for one in [*workers, ALL["deploy"]]} == {"/state"}  # runs work where deploy says


def test_secrets_reach_those_that_need_them_alone() -> None:
    def holders(value: str) -> set[str]:
        return {name for name, one in ALL.items() if value in str(one)}

    assert holders(GIVEN["POSTGRES_PASSWORD"]) == {"postgres", "prefect", "mlflow"}
    assert holders(GIVEN["S3_SECRET_KEY"]) == {"store", "bucket", "mlflow"}
    clients = {"deploy", *(name for name, one in ALL.items() if one.get("profiles"))}
    assert holders(GIVEN["PREFECT_AUTH"]) == {"prefect", *clients}
    assert holders(GIVEN["MLFLOW_PASSWORD"]) == {"mlflow", *clients}
    assert not any(value in str(one.get("command")) for one in ALL.values() for value in GIVEN.values())


def test_mlflow_asks_for_the_password_that_its_clients_give() -> None:
    server, client = ALL["mlflow"], ALL["worker"]["environment"]
    assert "--app-name=basic-auth" in server["command"]
    for name in ("USERNAME", "PASSWORD"):
        assert server["environment"][f"MLFLOW_AUTH_ADMIN_{name}"] == client[f"MLFLOW_TRACKING_{name}"]
    (mounted,) = server["volumes"]
    source, inside, _ = mounted.split(":")
    assert inside == server["environment"]["MLFLOW_AUTH_CONFIG_PATH"]
    config = configparser.ConfigParser()
    config.read(COMPOSE.parent / source)
    assert config["mlflow"]["database_uri"] == server["environment"]["MLFLOW_BACKEND_STORE_URI"]
    assert "admin_password" not in config["mlflow"]


def test_the_image_is_what_the_pools_expect() -> None:
    environment = dict(re.findall(r"(\w+)=(\S+)", " ".join(instructions("ENV"))))
    assert {name: environment[name] for name in ("COLINEAR_HOME", "PYTHONSAFEPATH")} == {
        name: CONTAINER_ENV[name] for name in ("COLINEAR_HOME", "PYTHONSAFEPATH")
    }
    (docker,) = [pool for pool in POOLS if pool.kind == "docker"]
    owned = " ".join(instructions("RUN"))
    for volume in docker.job_variables["volumes"]:
        assert f" {volume.split(':')[1]} " in f"{owned} ", volume  # a folder of the user's, or it could not write there
    assert instructions("USER") == ["10001:10001"]
    assert instructions("WORKDIR") == ["/state"]


def test_the_context_has_what_is_copied_and_nothing_else() -> None:
    copied = {word for line in instructions("COPY") for word in line.split()[:-1]}
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)


def test_pip_installs_the_versions_of_the_constraints() -> None:
    installs = [part for line in instructions("RUN") for part in line.split("&&") if "pip install" in part]
    assert len(installs) == 3
    assert all(" -c /tmp/colinear/constraints.txt " in one or " --no-deps " in one for one in installs)
    pinned = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert {"psycopg2-binary", "boto3", "botocore", "s3transfer", "jmespath"} <= pinned  # the extra `team`
    assert {"flask-wtf", "wtforms"} <= pinned  # mlflow[auth]


@pytest.fixture(scope="module")
def tool() -> list[str]:
    """`docker compose` or Debian's docker-compose. Neither needs an engine for `config`."""
    for words in (["docker", "compose"], ["docker-compose"]):
        if (
            shutil.which(words[0])
            and subprocess.run([*words, "version"], capture_output=True, check=False).returncode == 0
        ):
            return words
    pytest.skip("no compose tool (apt-get install docker-compose)")


def config(tool: list[str], tmp_path: Path, values: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    names = {name for name, _, _ in variables()} | {"COMPOSE_PROFILES", "COMPOSE_FILE"}
    clean = {name: value for name, value in os.environ.items() if name not in names}
    (tmp_path / "env").write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    return subprocess.run(
        [*tool, "--env-file", str(tmp_path / "env"), "-f", str(COMPOSE), *words, "config"],
        cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_a_compose_tool_reads_it_as_we_do(tool: list[str], tmp_path: Path) -> None:
    done = config(tool, tmp_path, {**GIVEN, "COMPOSE_PROFILES": "gpus-2"}, "--profile", "gpus-2")
    assert done.returncode == 0, done.stderr
    read: dict[str, Any] = yaml.safe_load(done.stdout)
    servers = {name for name, one in ALL.items() if not one.get("profiles")}
    # Its old form prints the services of every profile.
    assert servers | {"gpu0", "gpu1"} <= set(read["services"]) <= set(ALL)
    assert set(read["volumes"]) == {"databases", "objects", "state"}
    for name, one in read["services"].items():
        assert one["image"] == ALL[name]["image"]
        assert one.get("command") == ALL[name].get("command")
        ours = {key: value for key, value in ALL[name].get("environment", {}).items() if value is not None}
        assert {key: str(value) for key, value in one["environment"].items() if value is not None} == ours


@pytest.mark.parametrize("missing", SECRETS)
def test_a_compose_tool_refuses_to_go_without_a_secret(tool: list[str], tmp_path: Path, missing: str) -> None:
    values = {name: value for name, value in GIVEN.items() if name != missing}
    done = config(tool, tmp_path, values)
    assert done.returncode != 0
    (message,) = {text for name, sign, text in variables() if name == missing and sign == "?"}
    assert message in done.stderr
